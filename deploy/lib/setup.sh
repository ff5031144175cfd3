# Sourced by deploy/quickstart and tests/run: what a fresh Debian lacks, and the virtual environment.
# The caller sets ROOT to the top of the repository. bash only; nothing else is expected on the machine.

PYTHON_NEEDED="3.11"

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# A command, also in the directories that are in root's PATH only.
has() {
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null
}

python_is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < tuple(map(int, sys.argv[1].split("."))))' "$PYTHON_NEEDED" 2>/dev/null
}

# Whether a virtual environment is there and whole. After an upgrade of Debian its interpreter is a newer one, which looks
# for libraries elsewhere.
venv_works() {
    python_is_new_enough "$1/bin/python" && "$1/bin/python" -I -c 'import pip' 2>/dev/null
}

# Whether users other than root can run it. One below /root is root's alone, and daemons shall not be root.
others_can_run() {
    setpriv --reuid=65534 --regid=65534 --clear-groups "$1" -c '' 2>/dev/null
}

# Prints the first Python that is new enough; for root, one that others can run as well goes first.
find_python() {
    local candidate second=
    for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.13 python3.12 python3.11}; do
        has "$candidate" && python_is_new_enough "$candidate" || continue
        if [ "$(id -u)" != 0 ] || others_can_run "$candidate"; then
            echo "$candidate"
            return
        fi
        second=${second:-$candidate}
    done
    [ -n "$second" ] && echo "$second"
}

# Prints the Debian packages that are missing. Arguments: further ones, each named like its command, or COMMAND:PACKAGE.
missing_packages() {
    local python extra
    for extra in "$@"; do
        has "${extra%%:*}" || echo "${extra##*:}"
    done
    has rabbitmq-server || echo rabbitmq-server
    { has mariadbd && has mariadb-install-db; } || echo mariadb-server
    has curl || echo curl
    if python=$(find_python); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    elif ! has python3; then
        echo python3-venv
    fi
}

# Installs what is missing; the only step that needs root. Arguments as for missing_packages.
ensure_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    has apt-get || die "these are missing: ${missing[*]}. Install them with this system's package manager, then try again"
    echo "Installing ${missing[*]} (their services are neither started nor enabled) ..."
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        has sudo || die "to install ${missing[*]}, run this once as root: $ROOT/deploy/lib/packages.sh ${missing[*]}"
        as_root=(sudo)
    fi
    "${as_root[@]}" bash "$ROOT/deploy/lib/packages.sh" "${missing[@]}" </dev/null \
        || die "apt could not install ${missing[*]}; its message is above"
}

pip_install() {
    local venv=$1
    shift
    "$venv/bin/python" -m pip install --disable-pip-version-check -c "$ROOT/constraints.txt" "$@" >>"$venv/install.log" 2>&1
}

# Makes $ROOT/.venv with the pinned versions. Usage: ensure_venv EXTRAS, for example: ensure_venv provider,agent
# Skips in a moment when nothing has changed: a stamp per set of extras holds a hash of all that matters.
ensure_venv() {
    local extras=$1 venv="$ROOT/.venv" python stamp
    python=$(find_python) || die "Python $PYTHON_NEEDED or newer is needed; $(python3 --version 2>&1 || true) is what there is. \
Debian 12 and 13 have it; PYTHON=/path/to/python3 chooses another"
    exec 8<"$ROOT"
    flock 8 # quickstart and tests/run at the same moment
    if ! venv_works "$venv"; then
        echo "Making .venv ..."
        "$python" -m venv --clear "$venv" || die "could not make $venv; its message is above"
    fi
    stamp=$({ cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt"; "$venv/bin/python" --version; echo "$ROOT"; } | sha256sum)
    # The stamp of a larger set will do as well.
    if ! grep -qsxF -- "$stamp" "$venv/.installed-$extras"*; then
        echo "Installing Python packages into .venv ..."
        : >"$venv/install.log"
        # setuptools first and no isolation: the build, too, uses the pinned version.
        if ! { pip_install "$venv" setuptools && pip_install "$venv" --no-build-isolation -e "$ROOT[$extras]"; }; then
            tail -n 30 "$venv/install.log" >&2
            die "pip could not install the Python packages; its last words are above, all of them in $venv/install.log"
        fi
        echo "$stamp" >"$venv/.installed-$extras"
    fi
    exec 8<&-
}
