"""The members of a plant: the real programs, started through `tests.faults.child`, with their logs where no power cut
takes them."""

import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localcluster.agent import Agent
from localcluster.layout import ServerFiles
from localcluster.mariadb import MariaDB
from localcluster.provider import Provider

from provider.store import split_password
from shared.files import write_atomically
from tests.faults import child
from tests.faults.brokers import Brokers
from tests.faults.links import Links
from tests.support.databases import new_database
from tests.support.sql import sql

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Options:
    """`variant`: the rule that is broken, None: none is. `agents`: how many, each with a MariaDB server. `disks`,
    `links`: whether these can be cut; `slow`: whether links can be slow. `brokers`: how many; one for all, or
    one on each of the first hosts. `store`: what the providers keep their state in; `shared`: all of them in one
    database."""

    variant: str | None = None
    agents: int = 1
    disks: bool = True
    brokers: int = 1
    links: bool = True
    slow: bool = True
    store: Literal["sqlite", "mariadb", "shared"] = "sqlite"


def _started_as(program: str, config: Path) -> list[str | Path]:
    return [sys.executable, "-m", "tests.faults.child", program, "run", "--config", config]


def _told(options: Options, links: Links | None, member: str, **variables: str) -> dict[str, str]:
    told = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'deploy'}", **variables}
    if links is not None:
        told[child.GROUP] = str(links.group(member))
    return told if options.variant is None else {**told, child.VARIANT: options.variant}


class PlantProvider(Provider):
    """Started through `tests.faults.child`. Its log is on no disk of its host: it is to be read after a bad day."""

    def __init__(
        self,
        name: str,
        files: ServerFiles,
        port: int,
        options: Options,
        links: Links | None,
        store: "PlantStore | None",
    ) -> None:
        """`store`: where its database is, unless it keeps its state in a file."""
        super().__init__(name, files, port)
        self._links, self._store = links, store
        self.brokers: Brokers | None = None
        self._clock = files.directory.parent / f"{name}.clock"
        self._options = options

    @property
    def log(self) -> Path:
        return self.files.directory.parent / f"{self.name}.log"

    def command(self, *arguments: str, program: str = "provider") -> str:
        if self._store is not None and arguments[0] in ("init", "join"):
            arguments += self._store.options_for(self.name)
        if self.brokers is not None and arguments[0] in ("init", "join"):
            arguments = self.brokers.told(arguments, self.name)
        return super().command(*arguments, program=program)

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


class PlantAgent(Agent):
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


class PlantStore(MariaDB):
    """The databases of all providers, one each; or one for all of them."""

    shared = False
    more_options = ("--sync-binlog=1",)  # as docs/RECOVERY.md asks for; without it a power cut takes the last commit

    @property
    def log(self) -> Path:
        return self.directory.parent / "store.log"

    def options_for(self, name: str) -> tuple[str, ...]:
        """A database for that node, unless there is one; as `provider init` and `join` are told of it."""
        name = "shared" if self.shared else name
        password = self.directory.parent / "store.password"
        if not sql(self, "SHOW DATABASES LIKE %s", name):
            _, given = split_password(new_database(self, name))
            write_atomically(password, f"{given}\n")
        url = f"mysql+pymysql://store@127.0.0.1:{self.port}/{name}"
        return "--store-url", url, "--store-password-file", str(password)
