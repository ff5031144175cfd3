#!/bin/bash
# Usage (as root): packages.sh [--resume] PACKAGE…
# Installs Debian packages without starting, restarting or enabling any service: what these packages bring is used as
# programs only. Called by setup.sh; nothing else on the machine is changed. With --resume it first brings to its end what
# an earlier run was killed in; then there need be no further package.
set -euo pipefail

policy=/usr/sbin/policy-rc.d
saved=$policy.bellwether-saved
mark="# bellwether: temporary, while packages are installed"

restore_policy() {
    if [ -f "$policy" ] && grep -qsF "$mark" "$policy"; then rm -f "$policy"; fi
    if [ -e "$saved" ] || [ -L "$saved" ]; then mv -f "$saved" "$policy"; fi
}

# Names of the units and init scripts that start by themselves at boot.
enabled_units() {
    find /etc/systemd/system -path '*.wants/*' \( -name '*.service' -o -name '*.socket' \) -printf '%f\n' 2>/dev/null || true
}
enabled_scripts() {
    find /etc/rc[2-5].d -name 'S*' -printf '%f\n' 2>/dev/null | sed 's/^S[0-9]*//' || true
}

# What the packages made start at boot does not.
disable_new() {
    comm -13 <(echo "$units_before") <(enabled_units | sort -u) | while read -r unit; do
        [ -n "$unit" ] || continue
        if command -v systemctl >/dev/null; then
            systemctl --quiet --no-reload disable "$unit" 2>/dev/null || true
        else
            find /etc/systemd/system -path '*.wants/*' -name "$unit" -delete # a container: no systemd now, perhaps later
        fi
    done
    comm -13 <(echo "$scripts_before") <(enabled_scripts | sort -u) | while read -r script; do
        [ -n "$script" ] || continue
        update-rc.d "$script" disable >/dev/null 2>&1 || true
    done
}

[ "$(id -u)" = 0 ] || { echo "packages.sh: must run as root" >&2; exit 1; }
exec 9>/run/bellwether-packages.lock
flock 9 # one at a time: two would take each other's policy for the machine's own

# dpkg asks policy-rc.d before it starts anything; 101 means no. The machine's own, if it has one, comes back in any case:
# bash runs a trap only after apt has ended, and what a kill -9 left behind is put right by the next run.
restore_policy
units_before=$(enabled_units | sort -u)
scripts_before=$(enabled_scripts | sort -u)
trap 'restore_policy; disable_new' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$saved"; fi
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"

# NEEDRESTART_SUSPEND: a hook of that package would restart services that use an upgraded library.
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
options=(-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
# --no-remove: another database server on this machine must not give way to ours.
install=(apt-get "${options[@]}" install --no-install-recommends --no-remove)
if [ "${1:-}" = --resume ]; then
    shift
    dpkg --configure --pending || true # apt refuses to work before that was tried; what is missing for it comes next
    apt-get "${options[@]}" update
    "${install[@]}" --fix-broken
else
    apt-get "${options[@]}" update
fi
[ $# -eq 0 ] || "${install[@]}" "$@"
