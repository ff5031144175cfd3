"""Readers and writers that go on whatever happens, each on a connection of its own that it keeps, and remember every
failure; and one that follows the events."""

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from shared.tls import client_context

PAUSE_S = 0.005
Place = Callable[[], AbstractContextManager[None]]


@dataclass
class Readers:
    """What they were answered. Any thread may look."""

    answered: Counter[str] = field(default_factory=Counter)
    """By the node that answered."""
    failures: list[str] = field(default_factory=list)
    """Answers that were not 200, and requests without one: each was asked once."""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def wait_for_more(self, number: int = 50, *, node: str | None = None, timeout_s: float = 30.0) -> None:
        """Until so many more were answered, by that node or by any."""
        with self._changed:
            wanted = self._count(node) + number
            assert self._changed.wait_for(lambda: self._count(node) >= wanted, timeout_s), (
                f"{self._count(node)} of {wanted} reads in {timeout_s:g} s; the last failures: {self.failures[-5:]}"
            )

    def _count(self, node: str | None) -> int:
        return self.answered[node] if node is not None else self.answered.total()

    def ask(self, url: str, path: str, ca: Path, token: str, *, writes: bool = False) -> None:
        """One thread's. `writes`: a value that is new each time is put there, without a key."""
        where = urlsplit(url)
        method, count = "PUT" if writes else "GET", 0
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=15.0, context=client_context(ca)
        )
        while not self._stopping.wait(PAUSE_S):
            count += 1
            said = json.dumps({"value": count}) if writes else None
            try:
                connection.request(method, path, said, headers={"Authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._note(None, f"{url}: {error!r}")
                continue
            if answer.status not in (http.client.OK, http.client.CREATED) or not json.loads(body):
                self._note(None, f"{url}: {answer.status} {body.decode(errors='replace')[:300]}")
            else:
                self._note(answer.getheader("Bellwether-Node"), None)
        connection.close()

    def _note(self, node: str | None, failure: str | None) -> None:
        with self._changed:
            if failure is not None:
                self.failures.append(failure)
            else:
                self.answered[str(node)] += 1
            self._changed.notify_all()

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def reading(
    urls: Sequence[str], *, ca: Path, token: str | None, path: str = "/api/v1/nodes", place: Place = nullcontext
) -> Iterator[Readers]:
    """One reader at each address within this block. `place` is where it stands: entered by its thread."""
    load = Readers()

    def read(url: str) -> None:
        with place():
            load.ask(url, path, ca, str(token))

    with _running(load, [threading.Thread(target=read, args=(url,)) for url in urls]):
        yield load


@contextmanager
def writing(urls: Sequence[str], *, ca: Path, token: str | None, place: Place = nullcontext) -> Iterator[Readers]:
    """One writer at each address, each of a setting of its own: as `reading`."""
    load = Readers()

    def write(number: int, url: str) -> None:
        with place():
            load.ask(url, f"/api/v1/settings/user.written.{number}", ca, str(token), writes=True)

    with _running(load, [threading.Thread(target=write, args=pair) for pair in enumerate(urls)]):
        yield load


@contextmanager
def _running(load: Readers, threads: list[threading.Thread]) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.stop()
        for thread in threads:
            thread.join(20.0)
    assert not any(thread.is_alive() for thread in threads), "a request hangs without a deadline"


@dataclass
class Follower:
    """Follows the events, and goes on where a stream has ended."""

    seen: list[int] = field(default_factory=list)
    """Revisions, as they were told."""
    broken: list[str] = field(default_factory=list)
    """Streams that did not end as a stream should."""
    streams: int = 0
    _connection: http.client.HTTPSConnection | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, revision: int, *, timeout_s: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: revision in self.seen, timeout_s), self

    def follow(self, url: str, after: int, ca: Path, token: str) -> None:
        where = urlsplit(url)
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
        while not self._stopping.wait(PAUSE_S):
            connection = http.client.HTTPSConnection(
                where.hostname or "", where.port, timeout=20.0, context=client_context(ca)
            )
            self.streams += 1
            self._connection = connection
            try:
                last = self.seen[-1] if self.seen else after
                connection.request("GET", f"/api/v1/events?after={last}", headers=headers)
                answer = connection.getresponse()
                assert answer.status == http.client.OK, answer.read()
                while not self._stopping.is_set() and (line := answer.readline()):
                    self._note(line)
                answer.close()
            except (OSError, http.client.HTTPException, ValueError) as error:
                if not self._stopping.is_set():
                    self.broken.append(repr(error))
            connection.close()

    def _note(self, line: bytes) -> None:
        if line.strip():
            with self._changed:
                self.seen.append(json.loads(line)["revision"])
                self._changed.notify_all()

    def stop(self) -> None:
        """Also where it waits for an event."""
        self._stopping.set()
        if self._connection is not None and self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def following(url: str, *, after: int, ca: Path, token: str | None) -> Iterator[Follower]:
    """One that follows the events after revision `after` within this block."""
    follower = Follower()
    thread = threading.Thread(target=follower.follow, args=(url, after, ca, token))
    thread.start()
    try:
        yield follower
    finally:
        follower.stop()
        thread.join(40.0)
    assert not thread.is_alive()
