"""deploy/install-provider and install-agent on a Debian that was there before, and is as before when they have gone."""

from collections.abc import Iterator

import pytest

from tests.testbed.bed import Bed
from tests.testbed.host import Host
from tests.testbed.plain import SOURCE, WHEELS, source_into
from tests.testbed.space import Said

pytestmark = pytest.mark.long
"""A plain Debian is made for them, once: minutes."""

LOOK = r"""
dpkg-query -W
find /etc /opt /usr /var/lib -xdev \( -path '/var/lib/apt/*' -o -path '/var/lib/mysql/*' \) -prune -o -print | sort
systemctl list-unit-files --no-legend
getent passwd
mariadb --batch --skip-column-names --execute 'SELECT User, Host FROM mysql.user' | sort
"""
"""What is on a host: packages, files, units, users, accounts."""


@pytest.fixture(scope="module")
def host(bed: Bed) -> Iterator[Host]:
    host = bed.plain("h1")
    bed.space.run(source_into(host.root))
    host.boot()
    host.wait_for("mariadb --execute 'SELECT 1'")
    # What apt does to a host once, whatever it installs.
    host.run("apt-get update; rm -rf /var/lib/dpkg/info/*.triggers.old", check=False)
    yield host


def install(host: Host, what: str, *options: str, check: bool = True) -> Said:
    pip = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS}"
    return host.run(f"{pip} {SOURCE}/deploy/install-{what} {' '.join(options)}", check=check, timeout_s=600)


def looks(host: Host) -> set[str]:
    return set(host.run(LOOK).out.splitlines())


IGNORED = ("/var/lib/dpkg/", "/var/lib/systemd/", "/var/lib/ucf", "/etc/ld.so.cache", "/var/cache/")


def left(before: set[str], after: set[str]) -> list[str]:
    """What is there now and was not, but for what dpkg and systemd keep for themselves."""
    return sorted(line for line in after ^ before if not line.startswith(IGNORED))


def test_a_provider_comes_and_goes_and_leaves_nothing(host: Host) -> None:
    before = looks(host)
    install(host, "provider")
    assert "guest" not in host.run("rabbitmqctl --silent list_users").out
    again = install(host, "provider")
    assert "Made" not in again.out

    host.run(f"provider init --name p1 --url https://{host.address}:8443 --admin-token-file /root/admin.token")
    host.wait_for("provider status | grep -q 'writes are accepted'")
    assert f"{host.address}:8443" in host.run("ss --tcp --listening --numeric").out

    removed = install(host, "provider", "--remove")
    assert "data is still" in removed.out
    assert host.run("ls /etc/bellwether/node.key /var/lib/bellwether/state.db", check=False).code == 0
    assert host.run("command -v provider || ls /opt/bellwether", check=False).code != 0
    assert host.run("ss --tcp --listening --numeric | grep -E ':(5671|8443|25672|4369) '", check=False).code != 0
    install(host, "provider", "--remove", "--purge")
    assert left(before, looks(host)) == []


def test_a_provider_whose_program_comes_back_has_its_data(host: Host) -> None:
    install(host, "provider")
    host.run(f"provider init --name p1 --url https://{host.address}:8443 --admin-token-file /root/admin.token")
    host.wait_for("provider status | grep -q 'writes are accepted'")
    install(host, "provider", "--remove")
    install(host, "provider")
    host.run("systemctl start bellwether-provider")
    host.wait_for("provider status | grep -q 'writes are accepted'")
    install(host, "provider", "--remove", "--purge")


def test_a_broker_of_others_stays_with_what_is_theirs(host: Host) -> None:
    host.run("apt-get install -qq -y --no-install-recommends rabbitmq-server", timeout_s=300)
    host.run("systemctl start rabbitmq-server && rabbitmqctl add_vhost theirs && rabbitmqctl add_user them secret")
    host.run("rabbitmqctl set_permissions -p theirs them '.*' '.*' '.*'")
    install(host, "provider")
    init = f"provider init --name p1 --url https://{host.address}:8443 --admin-token-file /root/admin.token"
    refused = host.run(init, check=False)
    assert (refused.code, "holds virtual host 'theirs'" in refused.err) == (1, True), refused
    host.run(f"{init} --no-own-broker")
    host.wait_for("provider status | grep -q 'writes are accepted'")
    install(host, "provider", "--remove", "--purge")
    host.run("systemctl restart rabbitmq-server")
    assert set(host.run("rabbitmqctl --silent list_vhosts").out.split()) - {"name"} == {"/", "theirs"}
    assert {line.split("\t")[0] for line in host.run("rabbitmqctl --silent list_users").out.splitlines()} == {
        "guest",
        "them",
    }
    assert "5672" in host.run("ss --tcp --listening --numeric").out
    host.run("apt-get purge -qq -y --autoremove rabbitmq-server && rm -rf /var/lib/rabbitmq /etc/rabbitmq")


def test_an_agent_comes_and_goes_and_leaves_nothing(host: Host) -> None:
    before = looks(host)
    install(host, "agent")
    assert "bellwether-agent" in host.run("mariadb --execute 'SELECT User FROM mysql.user'").out
    assert "Usage" in host.run("agent --help").out
    refused = install(host, "provider", check=False)
    assert refused.code == 1
    assert "this host is a database's already" in refused.err
    install(host, "agent", "--remove", "--purge")
    assert left(before, looks(host)) == []


def test_what_one_role_leaves_is_not_the_other_s(host: Host) -> None:
    """An agent that had gone was purged, and with it the program and the keys of the provider that had come."""
    before = looks(host)
    install(host, "agent")
    install(host, "agent", "--remove")
    install(host, "provider", "--no-broker")
    host.run("touch /etc/bellwether/node.key")
    refused = install(host, "agent", "--remove", "--purge", check=False)
    assert (refused.code, "this host is a provider's now" in refused.err) == (1, True), refused
    assert "Usage" in host.run("provider --help").out

    install(host, "provider", "--remove")
    assert "a provider's data is in it" in install(host, "agent", "--remove", "--purge").out
    host.run("ls /etc/bellwether/node.key")
    install(host, "provider", "--remove", "--purge")
    assert left(before, looks(host)) == []


def test_an_agent_can_be_removed_where_its_server_does_not_run(host: Host) -> None:
    install(host, "agent")
    host.run("systemctl stop mariadb")
    assert "drop its account by hand" in install(host, "agent", "--remove").out
    host.run("systemctl start mariadb")
    host.wait_for("mariadb --execute 'SELECT 1'")
    install(host, "agent", "--remove", "--purge")
    assert "bellwether-agent" not in host.run("mariadb --execute 'SELECT User FROM mysql.user'").out


def test_a_proxy_s_configuration_goes_with_the_data(host: Host) -> None:
    install(host, "provider", "--no-broker", "--balancing")
    options = f'own = "p1"\nnodes = {{ p1 = "https://{host.address}:8443" }}\n[haproxy]\n[keepalived]\n'
    options += 'address = "192.0.2.1/24"\ninterface = "eth0"\n'
    host.run(f"cat >/etc/bellwether-balancing.toml <<'END'\n{options}END")
    host.run("bellwether-balancing haproxy >/etc/haproxy/bellwether.cfg; touch /etc/haproxy/bellwether-ca.pem")
    host.run("bellwether-balancing keepalived >/etc/keepalived/keepalived.conf")
    install(host, "provider", "--remove")
    host.run("ls /etc/bellwether-balancing.toml /etc/haproxy/bellwether.cfg /etc/keepalived/keepalived.conf")
    install(host, "provider", "--remove", "--purge")
    assert host.run("ls -d /etc/bellwether* /etc/haproxy /etc/keepalived", check=False).out == ""
