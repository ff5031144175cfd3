"""The cluster that has the bad days: as quickstart's, on disks whose power can be cut, with clocks that can be set."""

import http.client
import json
import os
import secrets
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.agent import Agent
from localcluster.broker import Broker
from localcluster.cluster import Cluster
from localcluster.layout import ServerFiles
from localcluster.ports import kept_ports
from localcluster.process import ProcessFailed
from localcluster.provider import Provider
from localcluster.steps import Tell, quiet

from provider.promotion import WAIT_S
from tests.faults import child
from tests.faults.disks import Disks
from tests.faults.links import Cut, Links
from tests.support.api import Client, client

ROOT = Path(__file__).resolve().parents[2]
BROKER_DISK = "512M"  # RabbitMQ wants 100 MB to be free
MEMBERS_MIN, MEMBERS_MAX = 3, 4
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """`variant`: the rule that is broken, None: none is. `agents`: how many, each with a MariaDB server. `disks`,
    `links`: whether these can be cut."""

    variant: str | None = None
    agents: int = 1
    disks: bool = True
    links: bool = True


def _started_as(program: str, config: Path) -> list[str | Path]:
    return [sys.executable, "-m", "tests.faults.child", program, "run", "--config", config]


def _told(options: Options, links: Links | None, member: str, **variables: str) -> dict[str, str]:
    told = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'deploy'}", **variables}
    if links is not None:
        told[child.GROUP] = str(links.group(member))
    return told if options.variant is None else {**told, child.VARIANT: options.variant}


class _Provider(Provider):
    """Started through `tests.faults.child`. Its log is on no disk of its host: it is to be read after a bad day."""

    def __init__(self, name: str, files: ServerFiles, port: int, options: Options, links: Links | None) -> None:
        super().__init__(name, files, port)
        self._links = links
        self._clock = files.directory.parent / f"{name}.clock"
        self._options = options

    @property
    def log(self) -> Path:
        return self.files.directory.parent / f"{self.name}.log"

    def set_clock(self, wrong_s: float) -> None:
        """Its time of day is wrong by so many seconds from now on."""
        with self._clock.open("r+b" if self._clock.exists() else "w+b") as file:  # in place: it is mapped
            file.write(struct.pack("<q", int(wrong_s * 1e9)))

    def _argv(self) -> list[str | Path]:
        return _started_as("provider", self.files.config)

    def _environment(self) -> dict[str, str]:
        if not self._clock.exists():
            self.set_clock(0.0)
        return super()._environment() | _told(self._options, self._links, self.name, **{child.CLOCK: str(self._clock)})


class _Agent(Agent):
    options: Options
    links: Links | None

    @property
    def obeyed(self) -> Path:
        """What it was told and did, a line each: see `child.record_obedience`."""
        return self.files.directory.parent / f"{self.name}.obeyed"

    def well(self) -> bool:
        """Whether the providers have heard it since its start, and all is well with its server."""
        return self._is_well(self.name, self._launched_at)

    def _argv(self) -> list[str | Path]:
        return _started_as("agent", self.files.config)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | _told(self.options, self.links, self.name, **{child.OBEYED: str(self.obeyed)})


class _Broker(Broker):
    @property
    def log(self) -> Path:
        return self.directory.parent / "broker.log"


class Plant(Cluster):
    """Three providers to begin with. Everything but `up` and `down` may be called from any thread."""

    broker_class = _Broker

    def __init__(self, root: Path, options: Options, *, tell: Tell = quiet) -> None:
        self._options = options
        self.links = Links(secrets.token_hex(3)) if options.links else None
        super().__init__(root, providers=3, databases=options.agents, tell=tell)
        self._disks = Disks(self.layout.root / "images") if options.disks else None
        if self._disks is not None:
            self._disks.make("broker", self.layout.broker, size=BROKER_DISK)
            for name, provider in self.providers.items():
                self._disks.make(name, provider.files.directory)
        self._joined = len(self.providers)
        self.joining: dict[str, _Provider] = {}
        """Hosts that are to be members and are not yet."""
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    @property
    def there(self) -> set[str]:
        """What kinds of faults may need."""
        has = {"disks": self._disks, "links": self.links, "agent": self.agents or None}
        return {name for name, what in has.items() if what is not None}

    def _make_provider(self, name: str, *, broker_reads: bool) -> _Provider:
        return _Provider(name, self.layout.provider(name), self.ports[name], self._options, self.links)

    def _make_agent(self, name: str) -> _Agent:
        made = _Agent(name, self.layout.agent(name), self.servers[name], self.agent_is_well)
        made.options, made.links = self._options, self.links
        return made

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
        if self.links is not None:
            self.links.close()

    def provider(self, name: str) -> _Provider:
        found = self.providers[name]
        assert isinstance(found, _Provider)
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

    def cuts(self, kind: str, name: str, percent: int) -> list[Cut]:
        """What is cut where `name` is so: the broker's ports, those of its peers, and its own."""
        broker = (self.ports["broker"], self.ports["broker-management"])
        peers = tuple(provider.port for other, provider in self.providers.items() if other != name)
        match kind:
            case "cut off":
                own = (self.providers[name].port,)
                return [Cut(name, broker + peers), Cut(name, own, visits=True)]
            case "apart":
                return [Cut(name, peers), Cut(name, (self.providers[name].port,), visits=True)]
            case "deaf":
                return [Cut(name, broker, asked=False)]
            case "mute":
                return [Cut(name, broker, answered=False)]
            case "lossy":
                return [Cut(name, broker + peers, percent=percent)]
            case _:
                return [Cut(name, broker)]

    def back_up(self, name: str, mark: str) -> None:
        """A backup by that node, which must then be whole. Raises `ProcessFailed` where none was made, `ValueError`
        where it is not whole."""
        directory = self.layout.root / "backups" / mark
        directory.mkdir(mode=0o700, parents=True)
        passphrase = directory.with_suffix(".passphrase")
        passphrase.write_text("a passphrase that nobody guesses\n")
        passphrase.chmod(0o600)
        closed = ["--passphrase-file", str(passphrase)]
        self.providers[name].command("backup", "--to", str(directory), *closed)
        (file,) = directory.iterdir()
        try:
            self.providers[name].command("backup", "verify", str(file), *closed)
        except ProcessFailed as error:
            raise ValueError(f"{file} was made and is not whole: {error}") from None

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

    def agent(self, name: str) -> _Agent:
        found = self.agents[name]
        assert isinstance(found, _Agent)
        return found
