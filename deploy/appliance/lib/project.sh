# Sourced by deploy/appliance/build: the upper layer, the project itself. Seconds; again does no harm.
# Uses the caller's: ROOT, target, roles, authorized_keys.
# shellcheck shell=bash disable=SC2154

project_layer() {
    local role=${roles[0]}
    say "Installing the project as $role ..."
    install_distribution
    install_files "$role"
    install_files appliance
    inside systemd-sysusers 2>/dev/null
    inside sh -c "systemd-tmpfiles --create /usr/lib/tmpfiles.d/bellwether-*.conf"
    "${role}_layer"
    if [ -n "$authorized_keys" ]; then
        install -d -m 700 "$target/root/.ssh"
        install -m 600 "$authorized_keys" "$target/root/.ssh/authorized_keys"
    fi
    enable ssh chrony logrotate.timer bellwether-first-boot
    disable apt-daily.timer apt-daily-upgrade.timer
    forget
}

provider_layer() {
    install_files broker
    install_files balancing
    enable rabbitmq-server haproxy keepalived
    enable_ours provider
    enable_ours balancing
    disable mariadb
    echo "[rabbitmq_management]." >"$target/etc/rabbitmq/enabled_plugins"
    mkdir -p "$target/etc/rabbitmq/conf.d"
    bash "$ROOT/deploy/broker-setup" --print >"$target/etc/rabbitmq/conf.d/bellwether.conf"
    inside /opt/bellwether/bin/broker-setup cluster
    inside chown -R rabbitmq: /etc/rabbitmq
}

database_layer() {
    enable mariadb
    enable_ours database
    disable rabbitmq-server epmd.service epmd.socket haproxy keepalived
}

# The units of a list that may be enabled.
enable_ours() {
    local unit
    for unit in $(units_of "$1"); do
        if grep -qx '\[Install\]' "$target/etc/systemd/system/$unit"; then enable "$unit"; fi
    done
}

enable() { inside systemctl --quiet enable "$@"; }

# What another role's package has switched on, where it is there at all.
disable() {
    local unit
    for unit in "$@"; do
        inside systemctl --quiet disable "$unit" 2>/dev/null || true
    done
}

# What must be of each host's own is made at its first boot; what tells of the build goes.
forget() {
    rm -f "$target"/etc/ssh/ssh_host_*_key* "$target/var/lib/rabbitmq/.erlang.cookie" "$target/var/lib/dbus/machine-id" \
        "$target/var/lib/systemd/random-seed"
    # Empty, not missing: systemd makes one, and does not take the boot for one that shall reset every unit to presets.
    : >"$target/etc/machine-id"
    find "$target/var/log" -type f -delete
    rm -rf "$target"/var/lib/apt/lists/* "$target"/var/cache/apt/*.bin "$target"/tmp/* "$target"/root/.cache
}
