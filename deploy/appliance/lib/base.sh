# Sourced by deploy/appliance/build: the lower layer, which changes seldom: Debian's packages and Python libraries.
# Uses the caller's: ROOT, target, temporary, roles, packages, mirror, sources. Whatever decides over the layer's content
# stands in this file, constraints.txt or pyproject.toml: base_key takes them together.
# shellcheck shell=bash disable=SC2154

SUITE=trixie

COMMON_PACKAGES=(
    systemd systemd-sysv dbus udev kmod
    # who am I: also before anybody has written /etc/hosts
    libnss-myhostname iproute2 iputils-ping
    openssh-server chrony logrotate openssl ca-certificates curl
    python3 python3-venv
    # an operator at three in the morning
    less procps vim-tiny
)
PROVIDER_PACKAGES=(rabbitmq-server haproxy keepalived)
DATABASE_PACKAGES=(mariadb-server)

base_key() {
    {
        cat "$ROOT/deploy/appliance/lib/base.sh" "$ROOT/constraints.txt" "$ROOT/pyproject.toml"
        printf '%s\n' "$(dpkg --print-architecture)" "${roles[@]}" "${packages[@]}"
        [ -z "$sources" ] || cat "$sources"
    } | sha256sum | cut -c 1-32
}

ensure_base_tools() {
    local missing=()
    has mmdebstrap || missing+=(mmdebstrap)
    find_python >/dev/null || missing+=(python3)
    "$(find_python || echo false)" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] || bash "$ROOT/deploy/lib/packages.sh" "${missing[@]}" </dev/null
}

# Lines for apt: the machine's own mirrors of the same kind, with our suite in the place of the machine's.
machine_sources() {
    known_sources | grep . || { apt-get -qq update >&2 || true; known_sources; }
}
# By the names in the machine's sources, which apt tells at any time; and by those that the mirrors have for themselves,
# once it has looked there: sources may say "stable".
known_sources() {
    local own uri release
    own=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # shellcheck disable=SC2016 # apt's own variables
    {
        apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages'
        apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages'
    } | while read -r release component uri; do
        case $component,$release in
            main,"$own" | main,"$own-updates" | main,"$own-security")
                printf 'deb %s %s main\n' "$uri" "$SUITE${release#"$own"}"
                ;;
        esac
    done | sort -u
}

base_packages() {
    local list role include
    include=("${COMMON_PACKAGES[@]}" "${packages[@]}")
    for role in "${roles[@]}"; do
        case $role in
            provider) include+=("${PROVIDER_PACKAGES[@]}") ;;
            database) include+=("${DATABASE_PACKAGES[@]}") ;;
        esac
    done
    list=$temporary/build.list
    if [ -n "$mirror" ]; then
        printf 'deb %s %s main\n' "$mirror" "$SUITE" >"$list"
    else
        machine_sources >"$list"
    fi
    grep -q "^deb .* $SUITE main" "$list" || die "this machine's apt names no mirror of Debian: --mirror URI does"
    say "Installing Debian's packages ..."
    # Nobody reads documentation there, and translations are half of what apt would fetch.
    (IFS=, && mmdebstrap --quiet --variant=minbase --include="${include[*]}" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io \
        "$SUITE" "$target" "$list") || die "mmdebstrap failed; its message is above"
    # The build machine's mirror is nobody else's business.
    rm -f "$target/etc/apt/sources.list" "$target"/etc/apt/sources.list.d/*
    # Where updates come from is its owner's to say; a disk image asks cloud-init, which knows Debian's own.
    [ -z "$sources" ] || cat "$sources" >"$target/etc/apt/sources.list.d/debian.sources"
    rm -f "$target/etc/apt/apt.conf.d/99mmdebstrap"
    sed -i /force-unsafe-io/d "$target/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    # mmdebstrap leaves the build machine's name servers and name there.
    [ -L "$target/etc/resolv.conf" ] || : >"$target/etc/resolv.conf"
    echo bellwether >"$target/etc/hostname"
    printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$target/etc/hosts"
}

# The libraries come in by this machine's own pip, whose configuration says from where; inside there is neither network
# nor an address.
base_python() {
    local version wheels=$target/opt/bellwether-wheels
    version=$(inside python3 -c 'import sys; print("{}.{}".format(*sys.version_info))')
    say "Installing Python libraries for Python $version ..."
    "$(find_python)" -m venv "$temporary/pip"
    mapfile -t needed < <("$temporary/pip/bin/python" "$ROOT/deploy/lib/requirements.py" provider agent)
    "$temporary/pip/bin/python" -m pip download -qq --disable-pip-version-check --python-version "$version" \
        --only-binary=:all: --dest "$wheels" -c "$ROOT/constraints.txt" setuptools "${needed[@]}" \
        || die "pip could not fetch the Python libraries; its message is above"
    cp "$ROOT/constraints.txt" "$wheels/"
    inside python3 -m venv /opt/bellwether
    inside /opt/bellwether/bin/python -m pip install --quiet --no-index --find-links /opt/bellwether-wheels \
        -c /opt/bellwether-wheels/constraints.txt setuptools "${needed[@]}" \
        || die "pip could not install the Python libraries; its message is above"
    rm -rf "$wheels"
    # The agent's unit runs without assertions and docstrings: what it imports is compiled for that as well.
    inside /opt/bellwether/bin/python -m compileall -q -o 0 -o 2 /opt/bellwether/lib
}
