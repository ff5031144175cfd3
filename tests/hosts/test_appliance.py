"""The appliance as it comes up: what hosts do not share, who may come in, what starts after what, what starts again."""

import re
from collections.abc import Iterator

import pytest
from localcluster.process import wait_until

from tests.testbed.bed import Bed
from tests.testbed.host import Host

UNIQUE = {
    "the machine's id": "cat /etc/machine-id",
    "the Erlang cookie": "cat /var/lib/rabbitmq/.erlang.cookie",
    "the broker administrator's password": "cat /etc/bellwether/broker-admin.password",
    "the broker's first key": "cat /etc/rabbitmq/bellwether/node.key",
    "an ssh host key": "cat /etc/ssh/ssh_host_ecdsa_key",
}


@pytest.fixture(scope="module")
def hosts(bed: Bed) -> Iterator[list[Host]]:
    hosts = [bed.provider("p1"), bed.provider("p2")]
    bed.boot(*hosts)
    yield hosts


@pytest.fixture(scope="module")
def primary(hosts: list[Host]) -> Host:
    """The first of the hosts, once it is a cluster's first node."""
    p1 = hosts[0]
    p1.run(f"provider init --name p1 --url https://{p1.address}:8443 --admin-token-file /root/admin.token")
    return p1


def unit(host: Host, name: str, setting: str) -> str:
    return host.run(f"systemctl show --value --property={setting} {name}").out.strip()


def test_no_two_hosts_share_what_is_secret_or_names_them(hosts: list[Host]) -> None:
    for what, script in UNIQUE.items():
        said = [host.run(script).out for host in hosts]
        assert all(said), what
        assert len(set(said)) == len(hosts), what


def test_nothing_fails_at_the_first_boot_and_the_broker_is_there_with_tls_only(hosts: list[Host]) -> None:
    for host in hosts:
        assert host.run("systemctl --failed --no-legend").out == ""
        assert host.run("rabbitmqctl --silent list_users").out.split() == ["bellwether-admin", "[administrator]"]
        listening = host.run("ss --tcp --listening --numeric --no-header").out
        assert ":5671 " in listening
        assert ":5672 " not in listening
        assert "127.0.0.1:15671 " in listening


def test_the_first_boot_s_step_again_changes_nothing(hosts: list[Host]) -> None:
    p1 = hosts[0]
    before = {what: p1.run(script).out for what, script in UNIQUE.items()}
    p1.run("systemctl restart bellwether-first-boot")
    assert {what: p1.run(script).out for what, script in UNIQUE.items()} == before


def test_nothing_of_the_machine_that_built_it_is_left(hosts: list[Host]) -> None:
    p1 = hosts[0]
    assert p1.run("grep -rhE '^(URIs:|deb )' /etc/apt", check=False).out == "", "nobody asked for any sources"
    assert p1.run("find / -xdev -name 'pip.conf' -o -xdev -name '99mmdebstrap' -path '*/apt*'").out == ""
    assert p1.run("find /opt/bellwether -name '*wheels*' -o -name source").out == ""


def test_only_keys_come_in_and_the_commands_are_there(hosts: list[Host], bed: Bed) -> None:
    p1 = hosts[0]
    settings = p1.run("sshd -T").out.splitlines()
    assert {"passwordauthentication no", "permitrootlogin without-password"} <= set(settings)
    refused = bed.client().run(
        f"ssh -o PubkeyAuthentication=no -o BatchMode=yes -o StrictHostKeyChecking=no root@{p1.address} true",
        check=False,
    )
    assert refused.code == 255
    for command in ("provider", "failover", "bellwether", "broker-setup", "bellwether-balancing"):
        assert p1.ssh(f"command -v {command}").ok().out.strip() == f"/usr/local/bin/{command}"
    assert "this host is no provider" in p1.ssh("failover --operation status").err


def test_broker_then_provider_then_proxy_and_nobody_without_its_configuration(hosts: list[Host]) -> None:
    p1 = hosts[0]
    assert "bellwether-broker-wait.service" in unit(p1, "bellwether-provider", "After").split()
    for proxy in ("haproxy", "keepalived"):
        assert "bellwether-provider.service" in unit(p1, proxy, "After").split()
    for name in ("bellwether-provider", "haproxy", "keepalived"):
        assert unit(p1, name, "UnitFileState") == "enabled"
        assert unit(p1, name, "ActiveState") == "inactive"
        assert unit(p1, name, "ConditionResult") == "no"
        assert unit(p1, name, "Restart") == "always"


def test_a_cluster_begins_with_one_command(primary: Host) -> None:
    assert unit(primary, "bellwether-provider", "ActiveState") == "active"
    assert unit(primary, "bellwether-provider", "WatchdogUSec") == "3min", "one that hangs is ended"
    primary.wait_for("provider status | grep -q 'writes are accepted'")


def test_broker_and_provider_that_are_killed_come_back(primary: Host) -> None:
    for name in ("rabbitmq-server", "bellwether-provider"):
        before = unit(primary, name, "MainPID")
        primary.run(f"systemctl kill --signal=KILL {name}")
        wait_until(
            lambda name=name, before=before: (
                unit(primary, name, "ActiveState") == "active" and unit(primary, name, "MainPID") not in (before, "0")
            ),
            timeout_s=120,
            what=f"{name} again",
        )
    primary.wait_for("provider status | grep -q 'writes are accepted'")


@pytest.mark.long
def test_a_lone_broker_that_cannot_run_the_log_any_more_begins_again_and_gets_it_back(primary: Host) -> None:
    """As after it was killed in its first seconds: RabbitMQ has lost who decides on streams. (Where the story before
    has done that already, it begins again once more.)"""
    begun = "ls /var/lib/rabbitmq/set-aside/*/begun 2>/dev/null | wc -l"
    before = int(primary.run(begun).out)
    as_admin = (
        f"env BELLWETHER_API=https://{primary.address}:8443 BELLWETHER_CA=/etc/bellwether/ca.pem "
        "BELLWETHER_TOKEN_FILE=/root/admin.token bellwether settings"
    )
    primary.run(f"{as_admin} put user.before 1")
    users = primary.run("rabbitmqctl --silent list_users").out
    primary.run("rabbitmqctl eval 'ra:force_delete_server(coordination, {rabbit_stream_coordinator, node()}).'")
    primary.run("systemctl kill --signal=KILL rabbitmq-server")
    primary.wait_for(f"[ $({begun}) -gt {before} ]", timeout_s=240)
    primary.wait_for("provider status | grep -q 'writes are accepted'")
    primary.run(f"{as_admin} put user.after 2")
    assert primary.run(f"{as_admin} get user.before").out.strip() == "1"
    assert primary.run("rabbitmqctl --silent list_users").out == users


def test_after_an_upgrade_of_python_commands_and_units_say_what_to_do(primary: Host) -> None:
    pid, library = (
        unit(primary, "bellwether-provider", "MainPID"),
        primary.run("ls -d /opt/bellwether/lib/python*").out.strip(),
    )
    primary.run(f"mv {library} /opt/bellwether/lib/python2.7")
    for command in ("failover --operation status", "provider status", "bellwether nodes list"):
        refused = primary.ssh(command)
        assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1), refused
        assert re.match(rf"{command.split()[0]}: .*run deploy/install-provider again", refused.err), refused.err
    primary.run(f"kill {pid}")
    said = "journalctl --unit bellwether-provider --lines 20 --output cat"
    primary.wait_for(f"{said} | grep -q '^provider: .*run deploy/install-provider again'")
    primary.run(f"mv /opt/bellwether/lib/python2.7 {library}")
    primary.wait_for("provider status | grep -q 'writes are accepted'")


def test_logs_have_an_end(hosts: list[Host]) -> None:
    p1 = hosts[0]
    assert "SystemMaxUse=1G" in p1.run("systemd-analyze cat-config systemd/journald.conf").out
    rotation = p1.run("rabbitmqctl --silent environment | grep -A3 -i 'rotate\\|max_no'", check=False).out
    assert rotation
    assert unit(p1, "logrotate.timer", "ActiveState") == "active"
