# Sourced by deploy/install-provider and deploy/install-agent, after setup.sh and tree.sh: what both do to a host that is
# there already, and how it is undone. What was not there before stands in a record; only that is taken away again.
# The caller sets ROOT, target=/ and role (provider or database).
# shellcheck shell=bash disable=SC2154

RECORDS=/var/lib/bellwether-installed

record() {
    mkdir -p "$RECORDS"
    grep -qsxF -- "$1" "$RECORDS/$role" || printf '%s\n' "$1" >>"$RECORDS/$role"
}
recorded() { sed -n "s/^$1 //p" "$RECORDS/$role" 2>/dev/null; }
installed_by_us() { recorded package | grep -qxF -- "$1"; }

must_be_possible() {
    local other=database
    [ "$(id -u)" = 0 ] || die "must run as root"
    [ "$role" = provider ] || other=provider
    ! grep -qsxF "role $other" "$RECORDS/$other" || die "this host is a $other's already; one that is both is made by hand: docs/INSTALL.md"
    has apt-get || die "this is no Debian"
    has systemctl || die "there is no systemd on this host"
}

# What is running afterwards is what was asked for, and nothing that a package brings along.
install_packages() {
    local before new log
    [ $# -gt 0 ] || return 0
    say "Installing $* ..."
    before=$(packages_in ii)
    log=$(mktemp)
    bash "$ROOT/deploy/lib/packages.sh" "$@" </dev/null >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "apt could not install $*; its last words are above, all of them in $log"
    }
    rm -f "$log"
    while read -r new; do
        record "package $new"
    done < <(comm -13 <(echo "$before") <(packages_in ii))
}
packages_in() { dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n "s/^$1 *//p" | sort -u; }

# Of the packages that came with us, those that nothing else needs by now. Usage: remove_packages remove|purge
remove_packages() {
    local how=$1 unneeded
    mapfile -t unneeded < <(unneeded_packages)
    if [ "$how" = purge ]; then # of an earlier --remove, what packages left in /etc
        mapfile -t -O ${#unneeded[@]} unneeded < <(comm -12 <(recorded package | sort) <(packages_in rc))
    fi
    [ ${#unneeded[@]} -gt 0 ] || return 0
    if apt-get --simulate "$how" "${unneeded[@]}" | sed -n 's/^\(Remv\|Purg\) \([^ :]*\).*/\2/p' | sort -u \
        | comm -23 - <(printf '%s\n' "${unneeded[@]}" | sort) | grep -q .; then
        die "other packages would go with ${unneeded[*]}; nothing of that was removed"
    fi
    say "Removing ${unneeded[*]} ..."
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 "$how" "${unneeded[@]}" >/dev/null
}
unneeded_packages() {
    local ours
    mapfile -t ours < <(comm -12 <(recorded package | sort) <(packages_in ii))
    [ ${#ours[@]} -gt 0 ] || return 0
    apt-mark auto "${ours[@]}" >/dev/null
    comm -12 <(printf '%s\n' "${ours[@]}") <(apt-get --simulate -o APT::AutoRemove::RecommendsImportant=false \
        -o APT::AutoRemove::SuggestsImportant=false autoremove | sed -n 's/^Remv \([^ :]*\).*/\1/p' | sort)
}

missing_python() { python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv; }

# Where from is pip's own configuration's affair.
make_venv() {
    local needed log=/opt/bellwether/install.log
    python_is_new_enough python3 || die "Python $PYTHON_NEEDED or newer is needed: Debian 12 and 13 have it"
    if ! python_is_new_enough /opt/bellwether/bin/python; then
        [ ! -e /opt/bellwether ] || [ -e /opt/bellwether/pyvenv.cfg ] || die "/opt/bellwether is something else already"
        python3 -m venv --clear /opt/bellwether
        record "directory /opt/bellwether"
    fi
    say "Installing Python libraries into /opt/bellwether ..."
    mapfile -t needed < <(python3 "$ROOT/deploy/lib/requirements.py" "$1")
    /opt/bellwether/bin/python -m pip install --disable-pip-version-check --no-cache-dir -c "$ROOT/constraints.txt" \
        setuptools "${needed[@]}" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "pip could not install the Python libraries; its last words are above, all of them in $log"
    }
    rm -f "$log"
    install_distribution
}

# The daemon's own user; its directories become its.
make_user() {
    systemd-sysusers "/usr/lib/sysusers.d/bellwether-$2.conf" 2>/dev/null
    systemd-tmpfiles --create "/usr/lib/tmpfiles.d/bellwether-$2.conf"
}

# Units of these lists that may be enabled; a daemon whose configuration is not there yet waits for it.
enable_units() {
    local list unit
    systemctl daemon-reload
    for list in "$@"; do
        for unit in $(units_of "$list"); do
            if grep -qx '\[Install\]' "/etc/systemd/system/$unit"; then systemctl --quiet enable "$unit"; fi
            case $unit in *.path | *.timer) systemctl start "$unit" ;; esac
        done
    done
}

end_units() {
    local list unit
    for list in "$@"; do
        for unit in $(units_of "$list"); do
            [ -e "/etc/systemd/system/$unit" ] || continue
            systemctl stop "$unit"
            systemctl --quiet disable "$unit" 2>/dev/null || true
        done
    done
}

# The rest of what was recorded. With `purge` the daemon's user as well, to whom the data belonged, and the record.
# Usage: forget_installed USER PURGE
forget_installed() {
    if recorded directory | grep -qxF /opt/bellwether; then rm -rf /opt/bellwether; fi
    if [ -n "$2" ]; then
        case $(getent passwd "$1" | cut -d : -f 5) in Bellwether*) userdel "$1" ;; esac
        rm -f "$RECORDS/$role"
        rmdir --ignore-fail-on-non-empty "$RECORDS" 2>/dev/null || true
    else
        sed -i '/^role /d' "$RECORDS/$role"
    fi
    systemctl daemon-reload
    systemctl reset-failed 'bellwether-*' 2>/dev/null || true
}
must_be_installed() {
    [ -e "$RECORDS/$role" ] || die "this script has installed nothing on this host"
}
