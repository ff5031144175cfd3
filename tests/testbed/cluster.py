"""A cluster on the hosts of a bed, made by the commands that an operator would use."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from localcluster.api import Answer
from localcluster.process import wait_until

from tests.support.api import Client
from tests.support.writers import Writers, check_promises, running
from tests.testbed.bed import Bed
from tests.testbed.host import Host
from tests.testbed.space import Said

API_PORT = 8443
JOIN_S = 300.0
"""RabbitMQ's commands, of which a join needs two dozen, take a second each; on a machine with ten beds four."""
READY_S = 60.0
HEALTHY_S = 90.0
HOME_S = 120.0
"""A node looks for its own host's broker up to a minute apart where that was restarted often."""


class HostApi(Client):
    """A node's API, asked from a host of the bed: the client host, unless another is named."""

    def __init__(self, bed: Bed, url: str, *, source: str = "client", **options: Any) -> None:
        super().__init__(url, **options)
        self._bed, self._source, self._options = bed, source, options

    def request(self, *arguments: Any, **named: Any) -> Answer:
        with self._bed.space.network_of(self._source):
            return super().request(*arguments, **named)

    def holding(self, token: str | None) -> "HostApi":
        return HostApi(self._bed, self.url, source=self._source, **self._options | {"token": token})


class Cluster:
    """Providers that were made members, and database hosts whose agents were enrolled."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.nodes: dict[str, Host] = {}
        self.agents: dict[str, Host] = {}
        self.token = ""

    @property
    def ca(self) -> Path:
        return self.bed.space.state / "ca.pem"

    # ── making it ──

    def make(self, providers: int = 3, databases: int = 0) -> None:
        """From nothing running to a healthy cluster."""
        hosts = [self.bed.provider(f"p{n}") for n in range(1, providers + 1)]
        servers = [self.bed.database(f"db{n}") for n in range(1, databases + 1)]
        self.bed.client()
        for host in (*hosts, *servers):
            host.boot(wait=False)
        self.found(hosts[0])
        with ThreadPoolExecutor() as pool:  # at once, as impatient operators do
            for joined in [pool.submit(self.join, host) for host in hosts[1:]]:
                joined.result()
        self.nodes = {host.name: host for host in hosts}
        for host in servers:
            self.enroll(host)
        self.healthy()

    def found(self, host: Host) -> None:
        """`provider init`: the first node of a new cluster."""
        host.wait_booted()
        host.run(f"provider init --name {host.name} --url {url_of(host)} --admin-token-file /root/admin.token")
        self.token = host.read("/root/admin.token").strip()
        self.ca.write_text(host.read("/etc/bellwether/ca.pem"))
        self.nodes[host.name] = host

    def join(self, host: Host, *, through: Host | None = None) -> Said:
        """`provider join`: a further node. Returns what the command said."""
        host.wait_booted()
        through = through or next(iter(self.nodes.values()))
        host.write("/root/join.token", self._token(through, "node"), mode="600")
        said = host.run(
            f"provider join {url_of(through)} --name {host.name} --url {url_of(host)} --token-file /root/join.token",
            timeout_s=JOIN_S,
        )
        self.nodes[host.name] = host
        return said

    def enroll(self, host: Host) -> None:
        """`agent enroll`: the agent on a database host."""
        host.wait_booted()
        host.write("/root/agent.token", self._token(next(iter(self.nodes.values())), "agent"), mode="600")
        urls = ",".join(url_of(node) for node in self.nodes.values())
        host.run("mariadb </usr/local/share/bellwether/agent-account.sql")
        host.run(
            f"agent enroll {urls} --id {host.name} --token-file /root/agent.token "
            "--engine mariadb --socket /run/mysqld/mysqld.sock --user bellwether-agent"
        )
        host.run("systemctl start bellwether-agent")
        self.agents[host.name] = host

    @staticmethod
    def _token(node: Host, role: str) -> str:
        """Asked for until it is there: while brokers join, the log may be away for a moment."""
        return node.wait_for(f"provider token create --role {role}").out

    # ── load ──

    @contextmanager
    def writing(self, *, writers: int = 3) -> Iterator[Writers]:
        """Writers on the client host, through all nodes in turn, within this block: unique values, each asked again
        under its key until it is acknowledged. What was acknowledged is checked by `check`."""
        with ExitStack() as stack:
            with self.bed.space.network_of("client"):  # threads begin where they are made
                load = stack.enter_context(running(self._as_local(), roaming=writers, timeout_s=5.0))
            yield load

    def check(self, load: Writers, *, after: int) -> None:
        """All that was acknowledged is there, once, on every node; see `tests.support.writers`. `after` is a revision
        from before the load."""
        with self.bed.space.network_of("client"):
            check_promises(self._as_local(), load, after=after)

    def _as_local(self) -> Any:
        """As much of a `localcluster` as writers ask for."""
        token = self.bed.space.state / "admin.token"
        token.write_text(self.token)
        providers = {name: SimpleNamespace(url=url_of(host)) for name, host in self.nodes.items()}
        return SimpleNamespace(providers=providers, layout=SimpleNamespace(ca=self.ca, admin_token=token))

    # ── asking it ──

    def api(self, node: Host | str, *, source: Host | None = None, timeout_s: float = 10.0) -> HostApi:
        """The API of that node, as administrator, from the client host or from `source`."""
        host = self.nodes[node] if isinstance(node, str) else node
        name = source.name if source is not None else "client"
        return HostApi(self.bed, url_of(host), source=name, ca=self.ca, token=self.token, timeout_s=timeout_s)

    @property
    def living(self) -> list[Host]:
        return [host for host in self.nodes.values() if host.on]

    def look(self) -> dict[str, dict[str, Any] | None]:
        """What each living node says of the cluster; None from one that does not answer."""
        found: dict[str, dict[str, Any] | None] = {}
        for host in self.living:
            try:
                answer = self.api(host).get("/cluster")
            except OSError:
                found[host.name] = None
            else:
                found[host.name] = answer.json if answer.status == 200 else None
        return found

    def primary(self) -> Host:
        """The node that all living ones name as primary, once they agree."""
        said: dict[str, Any] = {}

        def agreed() -> bool:
            said.clear()
            said.update({name: view and view["primary"] for name, view in self.look().items()})
            return len(set(said.values())) == 1 and None not in said.values()

        self.wait(agreed, "the nodes do not agree on who is primary", said)
        return self.nodes[next(iter(said.values()))]

    def standbys(self) -> list[Host]:
        primary = self.primary()
        return [host for host in self.living if host is not primary]

    def equal(self, *, timeout_s: float = HEALTHY_S) -> dict[str, Any]:
        """`/cluster`, once all living nodes are at the same revision with the same digest, epoch and primary. Raises
        `AssertionError` at once where nodes at the same revision differ."""
        views: dict[str, Any] = {}

        def same() -> bool:
            views.clear()
            views.update(self.look())
            return None not in views.values() and len({view["revision"] for view in views.values()}) == 1

        self.wait(same, "the nodes do not come to the same revision", views, timeout_s=timeout_s)
        identities = {(v["digest"], v["epoch"], v["primary"], v["generation"]) for v in views.values()}
        assert len(identities) == 1, f"nodes at the same revision differ: {views}"
        return next(iter(views.values()))

    def healthy(self, *, timeout_s: float = HEALTHY_S) -> dict[str, Any]:
        """Puts right what stories did (links, power, disks, clocks), waits until all nodes are active and equal, and
        all agents online. `/cluster` of one of them."""
        self.bed.restore()
        last: dict[str, Any] = {}

        def well() -> bool:
            last.clear()
            last.update(self.look())
            states = [node["state"] for view in last.values() if view for node in view["nodes"]]
            wanted = len(self.nodes) ** 2
            return (
                len(states) == wanted
                and set(states) == {"active"}
                and all(view["agents"]["online"] == len(self.agents) for view in last.values())
            )

        self.wait(well, "the cluster does not become healthy", last, timeout_s=timeout_s)
        return self.equal()

    def at_home(self) -> dict[str, Any]:
        """As `healthy`, and every node uses its own host's broker."""
        self.healthy()
        reasons: dict[str, Any] = {}

        def all_there() -> bool:
            reasons.clear()
            reasons.update({name: self.api(name).read(f"/nodes/{name}")["status"]["reason"] for name in self.nodes})
            return not any(reasons.values())

        self.wait(all_there, "nodes are not all at their own brokers", reasons, timeout_s=HOME_S)
        return self.equal()

    def wait(
        self, condition: Callable[[], object], what: str, seen: object = None, *, timeout_s: float = READY_S
    ) -> None:
        """Waits until `condition` holds. Raises `ProcessFailed`, with what was last seen."""
        try:
            wait_until(condition, timeout_s=timeout_s, what=what)
        except Exception as error:
            error.add_note(f"last seen: {seen}")
            raise


def url_of(host: Host) -> str:
    return f"https://{host.address}:{API_PORT}"
