# Sourced by deploy/appliance/build, deploy/install-provider and deploy/install-agent: what all three put into a root
# file system, and take out of it again. The caller sets ROOT, the top of the repository, and target: / or a directory.
# shellcheck shell=bash disable=SC2154

say() { printf '%s\n' "$*"; }

# A command in the target, with nothing of the caller's environment.
inside() {
    local how=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive)
    if [ "$target" = / ]; then
        "${how[@]}" "$@"
    else
        # shellcheck disable=SC2016 # the inner shell's
        "${how[@]}" unshare --mount --propagation private sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$target" "$@"
    fi
}

# The lines of a list of files (deploy/lib/*.files): MODE SOURCE DESTINATION, sources from the top of the repository,
# destinations from the target's. `->` in the place of the mode makes a link.
files_of() { grep -v -e '^#' -e '^$' "$ROOT/deploy/lib/$1.files"; }

install_files() {
    local mode source destination
    while read -r mode source destination; do
        mkdir -p "$target/$(dirname "$destination")"
        if [ "$mode" = "->" ]; then
            ln -sfn "$source" "$target/$destination"
        else
            install -m "$mode" "$ROOT/$source" "$target/$destination"
        fi
    done < <(files_of "$1")
}

# The names of the units in a list.
units_of() { files_of "$1" | sed -n 's#.* etc/systemd/system/\([^/]*\)$#\1#p'; }

# Directories that are empty then, and that packages do not bring, go with them.
remove_files() {
    local mode source destination directory ours
    while read -r mode source destination; do
        rm -f "$target/$destination"
        directory=$(dirname "$destination")
        case $directory in
            *.d | */bellwether) ours=("$directory") ;;
            */share/bellwether/*) ours=("$directory" "$(dirname "$directory")") ;;
            *) ours=() ;;
        esac
        for directory in "${ours[@]}"; do
            rmdir --ignore-fail-on-non-empty "$target/$directory" 2>/dev/null || true
        done
    done < <(files_of "$1")
}

# Our own distribution, without its dependencies, built by what the virtual environment has: no network.
install_distribution() {
    local source=$target/opt/bellwether/source status=0
    rm -rf "$source"
    mkdir -p "$source"
    cp -r "$ROOT/pyproject.toml" "$ROOT/README.md" "$ROOT/LICENSE" "$ROOT/provider" "$ROOT/agent" "$ROOT/shared" "$source/"
    find "$source" -name __pycache__ -prune -exec rm -rf {} +
    # Forced: the version may be the same although the code is not.
    inside /opt/bellwether/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-index \
        --no-deps --no-build-isolation --force-reinstall /opt/bellwether/source || status=$?
    rm -rf "$source"
    [ "$status" = 0 ] || die "pip could not install the project; its message is above"
    inside /opt/bellwether/bin/python -m pip check --disable-pip-version-check >/dev/null \
        || die "the Python libraries in /opt/bellwether do not fit this version of the project: build the lower layer anew"
    # shellcheck disable=SC2016
    inside sh -c 'for package in provider agent shared; do
        /opt/bellwether/bin/python -m compileall -q -o 2 /opt/bellwether/lib/python*/site-packages/$package
    done'
}
