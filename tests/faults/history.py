"""What happened in one run, as data: what clients asked and were answered, what the nodes testify afterwards.

Times are monotonic seconds of one clock, that of the process which recorded them. A history can be written to a file
and read back: what the checker makes of it is then the same.
"""

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Action = Literal["put", "delete", "read", "list", "look", "wish"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, and its answer or none (`status` 0).

    What a client wants to be done once is an `op`; under one op there can be many attempts, with the same idempotency
    key. The value that an op writes is its own name: no two ops write the same.
    """

    client: str
    op: str
    action: Action
    door: str
    """Whom it was sent to: a node's name, or `proxy`."""
    asked_s: float
    answered_s: float
    """When it was answered, or given up."""
    status: int = 0
    code: str | None = None
    setting: str | None = None
    """Of a wish: the database, as `instance/name`."""
    match: int | None = None
    """`If-Match`; 0: `If-None-Match: *`."""
    minimum: int | None = None
    """`Bellwether-Min-Revision`."""
    node: str | None = None
    """Who answered, in which role, from which state: the headers of the answer."""
    role: str | None = None
    epoch: int | None = None
    revision: int | None = None
    document: int | None = None
    """The revision of the document in the answer; of the whole list; of the state that `look` tells of."""
    found: str | None = None
    """The value that a read found; the digest that `look` was told."""
    items: dict[str, tuple[int, str]] | None = None
    """Setting → revision and value, in the answer of a list."""

    @property
    def done(self) -> bool:
        """A success."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted record, as a node remembers it. `epoch` is the one that it was written in, or that it began."""

    revision: int
    epoch: int
    type: str
    node: str
    puts: tuple[tuple[str, str | None], ...] = ()
    """Settings and values, in order; None: it is deleted."""
    wishes: tuple[str, ...] = ()
    """Databases that are asked for, or of which something is told, as `instance/name`."""


@dataclass(frozen=True, slots=True)
class Witness:
    """What a node holds at the end. `entries` are all since the run began, or since the node knows of any."""

    node: str
    generation: str
    epoch: int
    primary: str
    revision: int
    digest: str
    entries: tuple[Entry, ...]
    settings: dict[str, tuple[int, str]]
    """Setting → revision and value."""
    earlier: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The same of settings of earlier runs on this cluster."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A backup that was made, and what it has when it is opened."""

    name: str
    revision: int
    settings: dict[str, tuple[int, str]]
    """Setting → revision and value."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One stream of `/events`, from where it was opened to where it broke off."""

    node: str
    after: int
    entries: tuple[Entry, ...]
    """In the order in which they came; without what they put."""


@dataclass(frozen=True, slots=True)
class Obeyed:
    """An agent did what a message of that epoch told it."""

    agent: str
    at_s: float
    epoch: int
    type: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What the nemesis did. `target` is who it hit; `why_not`: nothing was done."""

    kind: str
    target: str
    began_s: float
    ended_s: float
    why_not: str | None = None
    role: str = "-"
    """What the target was when it began: `primary`, `standby`, or `-` where that is no question."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A log that was begun by force, with what `node` held: `entries`, up to `revision`. Nothing of the log that was
    given up counts behind that. The new one begins with `epoch` and the revision `first`."""

    node: str
    lost: tuple[str, ...]
    """Who was given up."""
    began_s: float
    """When the disaster began, and when the new log could be written to."""
    ended_s: float
    revision: int
    epoch: int
    first: int
    costs: bool
    """Whether the command said that something acknowledged may be lost."""
    entries: tuple[Entry, ...]

    def gone(self, revision: int) -> bool:
        """Whether it is one that was given up."""
        return self.revision < revision < self.first


@dataclass(frozen=True, slots=True)
class History:
    """One run. `after` and what follows it: the state that it began with."""

    seed: int
    after: int
    epoch: int
    primary: str
    attempts: tuple[Attempt, ...]
    witnesses: tuple[Witness, ...]
    obeyed: tuple[Obeyed, ...] = ()
    faults: tuple[Fault, ...] = ()
    databases: tuple[str, ...] = ()
    """Those that there are at the end, as `instance/name`."""
    earlier: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Settings of earlier runs on this cluster, as all nodes held them at the end of each."""
    backups: tuple[Saved, ...] = ()
    followed: tuple[Followed, ...] = ()
    begun: Beginning | None = None

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)) + "\n")

    @staticmethod
    def read(file: Path) -> "History":
        """What `write` wrote."""
        raw = json.loads(file.read_text())
        return History(
            **{name: raw[name] for name in ("seed", "after", "epoch", "primary")},
            attempts=tuple(Attempt(**one | {"items": _settings(one["items"])}) for one in raw["attempts"]),
            witnesses=tuple(_witness(one) for one in raw["witnesses"]),
            obeyed=tuple(Obeyed(**one) for one in raw["obeyed"]),
            faults=tuple(Fault(**one) for one in raw["faults"]),
            databases=tuple(raw["databases"]),
            earlier=_settings(raw.get("earlier")) or {},
            backups=tuple(Saved(**one | {"settings": _settings(one["settings"])}) for one in raw.get("backups", ())),
            followed=tuple(Followed(**one | {"entries": _entries(one["entries"])}) for one in raw.get("followed", ())),
            begun=_beginning(raw.get("begun")),
        )


def _beginning(raw: dict[str, Any] | None) -> Beginning | None:
    if raw is None:
        return None
    return Beginning(**raw | {"lost": tuple(raw["lost"]), "entries": _entries(raw["entries"])})


def _entries(raw: list[dict[str, Any]]) -> tuple[Entry, ...]:
    return tuple(
        Entry(**one | {"puts": tuple((s, v) for s, v in one["puts"]), "wishes": tuple(one.get("wishes", ()))})
        for one in raw
    )


def _witness(raw: dict[str, Any]) -> Witness:
    entries = _entries(raw["entries"])
    settings, earlier = _settings(raw["settings"]) or {}, _settings(raw.get("earlier")) or {}
    return Witness(**raw | {"entries": entries, "settings": settings, "earlier": earlier})


def _settings(raw: dict[str, list[Any]] | None) -> dict[str, tuple[int, str]] | None:
    return None if raw is None else {name: (revision, value) for name, (revision, value) in raw.items()}


class Recorder:
    """Takes down what happens. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: list[Attempt] = []
        self._faults: list[Fault] = []
        self._followed: list[Followed] = []

    def attempt(self, attempt: Attempt) -> None:
        with self._lock:
            self._attempts.append(attempt)

    def fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def stream(self, followed: Followed) -> None:
        with self._lock:
            self._followed.append(followed)

    def wrote_since(self, since_s: float) -> bool:
        """Whether a write has succeeded that was asked for since then."""
        with self._lock:
            recent = reversed(self._attempts)
            return any(one.action == "put" and one.done and one.asked_s >= since_s for one in recent)

    @property
    def followed(self) -> tuple[Followed, ...]:
        with self._lock:
            return tuple(self._followed)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        with self._lock:
            return tuple(self._attempts)

    @property
    def faults(self) -> tuple[Fault, ...]:
        with self._lock:
            return tuple(sorted(self._faults, key=lambda fault: fault.began_s))
