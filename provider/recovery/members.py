"""What the other members say of themselves, asked over HTTPS; and the state of one of them, line by line.

Blocking; any thread but the event loop's.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from provider.client import Client, Problem, Unreachable, as_node
from provider.core.state import State
from provider.core.vouching import Word
from provider.log.port import Position
from provider.settings import Files
from provider.snapshot import read_snapshot
from shared.errors import BellwetherError, Invalid

ANSWER_S = 0.7
"""Members are near: one that does not answer in this time does not answer."""
QUICK_S = 0.15
"""Where somebody may hang, and those who answer may be enough."""
SILENCE_S = 15.0
"""A snapshot that does not go on for so long has broken off."""
ATTEMPTS = 10
"""Connections that one snapshot may need."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a member stands to the log, as it says."""

    word: Word
    cluster: str
    healthy: bool
    """It follows the log to its end: whoever takes its state can follow, too."""
    primary: bool
    disowns: str | None = None
    """It knows all that this node knows, and says that this node is no member any more: its words. Then it says nothing
    of the log."""


class Members(Protocol):
    """The other members, by name."""

    def standings(self, urls: Mapping[str, str], patience_s: float = ANSWER_S) -> dict[str, Standing | None]:
        """Of all of them at once; None: it does not answer within `patience_s`."""

    def snapshot(self, url: str) -> tuple[State, Position | None]:
        """The whole state of one. Raises a `BellwetherError`."""

    def history(self, url: str, until: int) -> Iterator[str]:
        """The lines of `GET /history`."""


class HttpMembers:
    """Implements `Members`, speaking as this node. `revision()` is what this node has; without it nobody is asked
    whether this node is a member still."""

    def __init__(self, files: Files, revision: Callable[[], int] | None = None) -> None:
        self._files, self._revision = files, revision

    def standings(self, urls: Mapping[str, str], patience_s: float = ANSWER_S) -> dict[str, Standing | None]:
        if not urls:
            return {}
        pool = ThreadPoolExecutor(len(urls), thread_name_prefix="asking")
        asked = {name: pool.submit(self._standing, url) for name, url in urls.items()}
        wait(asked.values(), patience_s)
        pool.shutdown(wait=False)  # who is late is not waited for: his answer ends by itself
        return {name: answer.result() if answer.done() else None for name, answer in asked.items()}

    def _standing(self, url: str) -> Standing | None:
        try:
            with closing(as_node([url], self._files, patience_s=ANSWER_S)) as client:
                try:
                    return standing_of(client.get("/standing"))
                except Problem as problem:
                    return self._disowned(client) if problem.answer_code == "unauthenticated" else None
        except (BellwetherError, OSError):
            return None

    def _disowned(self, client: Client) -> Standing | None:
        """A member that has not read so far yet does not know a node that has just joined."""
        if self._revision is None:
            return None
        try:
            client.request("GET", "/standing", headers={"Bellwether-Min-Revision": str(self._revision())})
        except Problem as problem:
            if problem.answer_code == "unauthenticated":
                nothing = Word("", epoch=0, revision=0)
                return Standing(nothing, "", healthy=False, primary=False, disowns=problem.detail)
        return None

    def snapshot(self, url: str) -> tuple[State, Position | None]:
        with closing(as_node([url], self._files)) as client:
            return read_snapshot(resumed(client))

    def history(self, url: str, until: int) -> Iterator[str]:
        with closing(as_node([url], self._files)) as client:
            yield from client.lines("GET", f"/history?until={until}", silence_s=SILENCE_S)


def standing_of(said: Mapping[str, Any]) -> Standing:
    """What `GET /standing` answered. Raises `Invalid`."""
    try:
        epoch, revision, marks = int(said["epoch"]), int(said["revision"]), tuple(map(str, said["marks"]))
        word = Word(str(said["generation"]), epoch, revision, bool(said["lost"]), bool(said["whole"]), marks)
        return Standing(word, str(said["cluster"]), bool(said["healthy"]), bool(said["primary"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"no standing of a member: {error!r}") from None


def resumed(client: Client, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """The lines of a member's snapshot. Where a connection breaks, another goes on behind the last whole line, as long
    as the member has that very state. Raises a `BellwetherError`."""
    digest, count = "", 0
    for attempt in range(ATTEMPTS):
        path = "/snapshot" if count == 0 else f"/snapshot?digest={digest}&from={count}"
        before = count
        try:
            for line in client.lines("GET", path, headers=dict(headers or {}), silence_s=SILENCE_S):
                whole = _parsed(line)
                if whole is None:
                    break
                if count == 0:
                    digest = str(whole["digest"])
                count += 1
                yield line
                if isinstance(whole, list) and whole[0] == "end":
                    return
        except Problem:
            raise
        except Unreachable:
            if attempt + 1 == ATTEMPTS:
                raise
            if count == before == 0 and attempt:
                raise
    raise Unreachable(f"the snapshot broke off {ATTEMPTS} times, at last behind line {count}")


def _parsed(line: str) -> Any:
    """None for a line that broke off."""
    try:
        return json.loads(line)
    except ValueError:
        return None
