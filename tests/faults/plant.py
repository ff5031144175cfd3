"""The cluster that has the bad days: as quickstart's, on disks whose power can be cut, with clocks that can be set."""

import http.client
import json
import secrets
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.cluster import Cluster
from localcluster.ports import free_ports, kept_ports
from localcluster.process import ProcessFailed
from localcluster.steps import Tell, quiet

from provider.promotion import WAIT_S
from tests.faults.begun import Begun
from tests.faults.brokers import Brokers, PlantBroker
from tests.faults.disks import Disks
from tests.faults.links import Cut, Links
from tests.faults.members import Options, PlantAgent, PlantProvider, PlantStore
from tests.support.api import Client, client

BROKER_DISK = "512M"  # RabbitMQ wants 100 MB to be free
MEMBERS_MIN, MEMBERS_MAX = 3, 4
LOOK_S = 1.0
SLOW_S, SLOWEST_S = 0.05, 0.8
"""How much later all arrives on a slow link, each way, at least and at most."""
PASSPHRASE = "a passphrase that nobody guesses"


class Plant(Cluster):
    """Three providers to begin with. Everything but `up` and `down` may be called from any thread."""

    broker_class = PlantBroker

    def __init__(self, root: Path, options: Options, *, tell: Tell = quiet) -> None:
        self._options = options
        self.store: PlantStore | None = None
        self.links = Links(secrets.token_hex(3)) if options.links else None
        if options.store != "sqlite":
            directory = root.absolute() / "store"
            directory.parent.mkdir(mode=0o700)
            self.store = PlantStore(directory, free_ports(1)[0])
            self.store.shared = options.store == "shared"
        super().__init__(root, providers=3, databases=options.agents, tell=tell)
        assert isinstance(self.broker, PlantBroker)
        hosts = list(self.providers)[: options.brokers] if options.brokers > 1 else []
        self.brokers = Brokers(self.broker, hosts, self.layout.ports_file)
        for name in self.providers:
            self.provider(name).brokers = self.brokers
        self.members = {**self.brokers.all, **self.members}
        if self.store is not None:
            self.members = {**self.members, "store": self.store}
        self._disks = Disks(self.layout.root / "images") if options.disks else None
        if self._disks is not None:
            for name, broker in self.brokers.all.items():
                self._disks.make(name, broker.directory, size=BROKER_DISK)
            if self.store is not None:
                self._disks.make("store", self.store.directory, size=BROKER_DISK)
            for name, provider in self.providers.items():
                self._disks.make(name, provider.files.directory)
        self._joined = len(self.providers)
        self.joining: dict[str, PlantProvider] = {}
        """Hosts that are to be members and are not yet."""
        self.backups: list[tuple[Path, str]] = []
        """Made, and nobody has looked into them yet: file and passphrase."""
        self.earlier: dict[str, tuple[int, str]] = {}
        """Settings of the runs so far, as all nodes held them at the end of each: revision and value."""
        self.since = 0
        """The revision with which the day began."""
        self.begun: Begun | None = None
        """The log that was begun by force on this day."""
        self.reviewing = False
        """Whether nobody has compared yet what is wished since then with what servers have."""
        self.alarmed: set[str] = set()
        """Brokers that were told that their disks are full."""
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    @property
    def there(self) -> set[str]:
        """What kinds of faults may need."""
        has = {"store": self.store, "disks": self._disks, "links": self.links, "agent": self.agents or None}
        found = {name for name, what in has.items() if what is not None}
        if self.links is not None and self._options.slow:
            found.add("slow links")
        if self.store is None or not self.store.shared:
            found.add("stores of their own")
        return found | {"store's disk"} if found >= {"store", "disks"} else found

    def _make_provider(self, name: str, *, broker_reads: bool) -> PlantProvider:
        return PlantProvider(name, self.layout.provider(name), self.ports[name], self._options, self.links, self.store)

    def _make_agent(self, name: str) -> PlantAgent:
        made = PlantAgent(name, self.layout.agent(name), self.servers[name], self.agent_is_well)
        made.options, made.links = self._options, self.links
        return made

    def up(self) -> None:
        """As if all had been there for a while: RabbitMQ, which syncs little, would else not survive its foundation."""
        super().up()
        if self._disks is not None:
            for name in self.servers_cut:
                self._disks.of(name).sync()

    @property
    def servers_cut(self) -> list[str]:
        """Those besides the providers whose power can be cut."""
        return [*self.brokers.all] if self.store is None else [*self.brokers.all, "store"]

    def host(self, name: str) -> list[str]:
        """Provider `name`, and what is on its host besides."""
        return [name, *self.brokers.on(name)]

    def _run(self, name: str) -> None:
        if name == "broker":
            self.brokers.start()
        else:
            super()._run(name)

    def _init(self) -> None:
        if self.store is not None:
            self.store.start()
        super()._init()

    # ── looking ──

    def quick(self, name: str) -> Client:
        """Node `name`, for questions that may not be answered."""
        token = self.layout.admin_token.read_text().strip()
        return Client(self.providers[name].url, ca=self.layout.ca, token=token, timeout_s=LOOK_S)

    def runs(self, name: str) -> bool:
        """Whether its process is there and does not hang."""
        process = self.members[name].process
        return process is not None and process.alive and not process.suspended

    def leader(self) -> str | None:
        """The node that calls itself primary of the highest epoch; None: nobody does."""
        found: dict[int, str] = {}
        for name in [name for name in list(self.providers) if self.runs(name)]:
            try:
                said = self.quick(name).get("/health/live").headers
            except (OSError, http.client.HTTPException):
                continue
            if said["bellwether-role"] == "primary":
                found[int(said["bellwether-epoch"])] = name
        return found[max(found)] if found else None

    def who(self, role: str) -> str | None:
        """The member that plays this role now; None: nobody does. See `plan.ROLES`."""
        if role == "newest":
            return list(self.providers)[-1]
        leader = self.leader()
        if role == "primary":
            return leader
        standbys = sorted(name for name in list(self.providers) if name != leader)
        return standbys[0 if role == "standby" else -1]

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Nobody else does anything to `name` within this block. Raises `ProcessFailed` where somebody does already."""
        with self._lock:
            if name in self._busy:
                raise ProcessFailed(f"something is being done to {name} already")
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)

    # ── doing ──

    def end(self) -> None:
        """`kill -9` for all of it, also for those who are not members yet."""
        self.kill_all()
        for made in self.joining.values():
            if made.process is not None:
                made.process.kill()
        self.brokers.end()
        if self.links is not None:
            self.links.close()

    def provider(self, name: str) -> PlantProvider:
        found = self.providers[name]
        assert isinstance(found, PlantProvider)
        return found

    def suspend(self, name: str) -> None:
        process = self.members[name].process
        if process is not None:
            process.suspend()

    def resume(self, name: str) -> None:
        process = self.members[name].process
        if process is not None:
            process.resume()

    def bring_back(self, name: str) -> None:
        """It runs again, whatever was done to it; does not wait until it is ready."""
        self.resume(name)
        if self._disks is not None and self._disks.is_off(name):
            self._disks.of(name).boot()
        if not self.alive(name):
            self.members[name].launch()

    def cut_power(self, *names: str) -> None:
        """These hosts lose their power in the same moment. They are off, and their disks hold what was synced."""
        if self._disks is None:
            raise ProcessFailed("these hosts have no disks of their own")
        for name in names:
            if self.alive(name):
                self.suspend(name)  # all of them first: nobody sees another's end
        for name in names:
            self._disks.of(name).cut_power()
        for name in names:
            self.kill(name)
        for name in names:
            self._disks.of(name).boot()

    def fill_disk(self, name: str) -> None:
        if self._disks is None:
            raise ProcessFailed("these hosts have no disks of their own")
        self._disks.of(name).fill()

    def empty_disk(self, name: str) -> None:
        if self._disks is not None:
            self._disks.of(name).empty()

    def cuts(self, kind: str, name: str, chance: int) -> list[Cut]:
        """What is cut where `name` is so: the broker's ports, those of its peers, and its own."""
        broker = self.brokers.ports
        own = (self.providers[name].port,) if name in self.providers else ()
        peers = tuple(provider.port for other, provider in self.providers.items() if other != name)
        match kind:
            case "cut off":
                return [Cut(name, broker + peers), Cut(name, own, visits=True)]
            case "apart":
                return [Cut(name, peers), Cut(name, own, visits=True)]
            case "deaf":
                return [Cut(name, broker, asked=False)]
            case "mute":
                return [Cut(name, broker, answered=False)]
            case "lossy":
                return [Cut(name, broker + peers, percent=10 + chance % 40)]
            case "slow":
                late_s = SLOWEST_S ** (chance % 100 / 99) * SLOW_S ** (1 - chance % 100 / 99)
                return [Cut(name, broker + peers, late_s=late_s), Cut(name, own, visits=True, late_s=late_s)]
            case _:
                return [Cut(name, broker)]

    def back_up(self, name: str, mark: str) -> None:
        """A backup by that node, which must then be whole. Raises `ProcessFailed` where none was made, `ValueError`
        where it is not whole."""
        directory = self.layout.root / "backups" / mark
        directory.mkdir(mode=0o700, parents=True)
        passphrase = directory.with_suffix(".passphrase")
        passphrase.write_text(f"{PASSPHRASE}\n")
        passphrase.chmod(0o600)
        closed = ["--passphrase-file", str(passphrase)]
        self.providers[name].command("backup", "--to", str(directory), *closed)
        (file,) = directory.iterdir()
        try:
            self.providers[name].command("backup", "verify", str(file), *closed)
        except ProcessFailed as error:
            raise ValueError(f"{file} was made and is not whole: {error}") from None
        self.backups.append((file, PASSPHRASE))

    def ask_to_lead(self, name: str) -> str | None:
        """Asks a node to become primary; None: it is, else what it said."""
        asked = {"operation": "promote", "node": name, "force": False, "wait_s": WAIT_S}
        try:
            answer = client(self, name).post("/failover", asked)
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        last = json.loads(answer.body.splitlines()[-1])
        return None if answer.status == http.client.OK and "step" not in last and "code" not in last else str(last)

    def newcomer(self) -> str:
        """The name of a host that is no member yet."""
        with self._lock:
            self._joined += 1
            name = f"p{self._joined}"
        self.ports |= kept_ports(self.layout.ports_file, [name])
        made = self._make_provider(name, broker_reads=False)
        made.brokers = self.brokers
        if self._disks is not None:
            self._disks.make(name, made.files.directory)
        self.joining[name] = made
        return name

    def join(self, name: str) -> None:
        """Makes a newcomer a member, through the primary; also where an earlier try was interrupted. Raises
        `ProcessFailed`."""
        made, token, leader = self.joining[name], self.layout.tokens / name, self.leader()
        if leader is None:
            raise ProcessFailed("there is no primary to join")
        if not token.exists():
            self.providers[leader].create_token("node", token)
        if not made.member:
            made.join(self.providers[leader], token)
        made.launch()
        made.wait_ready()
        with self._lock:
            self.providers = {**self.providers, name: made}
            self.members = {**self.members, name: made}
            del self.joining[name]

    def remove(self, name: str) -> None:
        """It is no member any more, and its process ends. Raises `ProcessFailed`."""
        leader = self.leader()
        if leader is None:
            raise ProcessFailed("there is no primary to ask")
        answer = client(self, leader).delete(f"/nodes/{name}")
        if answer.status not in (200, 204, 404):
            raise ProcessFailed(f"{answer.status}: {answer.body.decode(errors='replace')}")
        with self._lock:
            gone = self.providers[name]
            self.providers = {other: one for other, one in self.providers.items() if other != name}
            self.members = {other: one for other, one in self.members.items() if other != name}
        if gone.process is not None:
            gone.process.kill()

    def end_alarms(self) -> None:
        for name in sorted(self.alarmed):
            self.brokers.all[name].ctl("set_disk_free_limit", "100MB")
            self.alarmed.discard(name)

    def give_up(self, names: Collection[str]) -> None:
        """These never come back, and are no members any more."""
        with self._lock:
            self.providers = {name: one for name, one in self.providers.items() if name not in names}
            self.members = {name: one for name, one in self.members.items() if name not in names}

    def agent(self, name: str) -> PlantAgent:
        found = self.agents[name]
        assert isinstance(found, PlantAgent)
        return found
