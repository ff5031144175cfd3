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
unrecord() { if [ -e "$RECORDS/$role" ]; then sed -i "/^$1 /d" "$RECORDS/$role"; fi; }
installed_by_us() { recorded package | grep -qxF -- "$1"; }

# The two share /opt/bellwether, /etc/bellwether and packages.
other_role() { if [ "$role" = provider ]; then echo database; else echo provider; fi; }
is_other_role() { grep -qsxF "role $(other_role)" "$RECORDS/$(other_role)"; }

must_be_possible() {
    [ "$(id -u)" = 0 ] || die "must run as root"
    ! is_other_role || die "this host is a $(other_role)'s already; one that is both is made by hand: docs/INSTALL.md"
    has apt-get || die "this is no Debian"
    has systemctl || die "there is no systemd on this host"
    record_packages
}

# What is running afterwards is what was asked for, and nothing that a package brings along. What an earlier run was
# killed in is brought to its end first: its packages may be there and not configured.
install_packages() {
    local log resume=() what="$*"
    if [ -e "$RECORDS/$role.before" ]; then
        resume=(--resume) what="what an earlier run began${*:+, and $*}"
    elif [ $# -eq 0 ]; then
        return 0
    else
        mkdir -p "$RECORDS"
        packages_here >"$RECORDS/$role.before.new"
        sync "$RECORDS/$role.before.new"
        mv "$RECORDS/$role.before.new" "$RECORDS/$role.before"
    fi
    say "Installing $what ..."
    trap record_packages EXIT
    log=$(mktemp)
    bash "$ROOT/deploy/lib/packages.sh" "${resume[@]}" "$@" </dev/null >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        record_packages
        half_installed || rm -f "$RECORDS/$role.before" # what comes until the next run is somebody else's
        die "apt could not install $what; its last words are above, all of them in $log"
    }
    rm -f "$log"
    trap - EXIT
    record_packages
    rm -f "$RECORDS/$role.before"
}
# The packages that came since installing them began. What was there before stands in a file until apt has succeeded: it
# may be killed, with packages half installed, and the next run must not take them for somebody else's.
record_packages() {
    local new
    [ -e "$RECORDS/$role.before" ] || return 0
    while read -r new; do
        record "package $new"
    done < <(packages_here | comm -13 "$RECORDS/$role.before" -)
}
# Also those that are not configured yet.
packages_here() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -e '/^not-installed /d' -e '/^config-files /d' -e 's/^[^ ]* //' | sort -u
}
half_installed() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' | grep -E '^(unpacked|half-|triggers-)' >/dev/null; }
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
    if ! venv_works /opt/bellwether; then
        # One that is being made, or made anew, and was killed in that has no such file.
        [ ! -e /opt/bellwether ] || [ -e /opt/bellwether/pyvenv.cfg ] || recorded directory | grep -qxF /opt/bellwether \
            || die "/opt/bellwether is something else already"
        record "directory /opt/bellwether"
        python3 -m venv --clear /opt/bellwether
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

# Takes our block out of a file. One without its end goes to the next empty line: an editor may have cut it, and what is
# behind it belongs to others.
remove_block() {
    grep -qs '^# BEGIN Bellwether' "$1" || return 0
    awk '/^# BEGIN Bellwether/ { ours = 1; next }
        ours && /^# END Bellwether/ { ours = 0; next }
        ours && NF { next }
        { ours = 0; print }' "$1" >"$1.bellwether-new"
    chmod --reference="$1" "$1.bellwether-new"
    chown --reference="$1" "$1.bellwether-new"
    mv -f "$1.bellwether-new" "$1"
}

# What either role knows is in /etc/bellwether. The other one may have been removed without its data.
purge_configuration() {
    if [ -e "$RECORDS/$(other_role)" ]; then
        say "/etc/bellwether stays: a $(other_role)'s data is in it, until that is purged as well."
    else
        rm -rf /etc/bellwether
    fi
}

# The rest of what was recorded. With `purge` the daemon's user as well, to whom the data belonged, and the record.
# Usage: forget_installed USER PURGE
forget_installed() {
    if recorded directory | grep -qxF /opt/bellwether; then rm -rf /opt/bellwether; fi
    rm -f "$RECORDS/$role.before"
    if [ -n "$2" ]; then
        case $(getent passwd "$1" | cut -d : -f 5) in Bellwether*) userdel "$1" ;; esac
        rm -f "$RECORDS/$role"
        rmdir --ignore-fail-on-non-empty "$RECORDS" 2>/dev/null || true
    else
        unrecord role
        unrecord directory # what is there later is not of this time
    fi
    systemctl daemon-reload
    systemctl reset-failed 'bellwether-*' 2>/dev/null || true
}
must_be_installed() {
    local more=()
    ! is_other_role || die "this host is a $(other_role)'s now, with the same /opt/bellwether: --remove that first"
    record_packages
    [ -e "$RECORDS/$role" ] || die "this script has installed nothing on this host"
    install_packages "${more[@]}" # apt removes nothing while something is half installed
}
