"""The brokers that the contract tests run against: one in memory, and RabbitMQ. Both can be asked for faults."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import trustme
from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.ports import free_ports
from localcluster.process import start

from shared.backoff import Backoff
from shared.bus import Credentials, Link, Outcome, Subscription, Topology
from shared.rabbitmq import RabbitLink
from tests.support.memory_bus import MemoryBroker, MemoryLink

TIMEOUT_S = 20.0
USER, PASSWORD = "bellwether", "s3cret"

T = TypeVar("T")


class Seen(list[T]):
    """A list that other threads append to, and that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def append(self, item: T) -> None:
        with self._changed:
            super().append(item)
            self._changed.notify_all()

    def until(self, condition: Callable[["Seen[T]"], object], timeout_s: float = TIMEOUT_S) -> "Seen[T]":
        """Itself, once `condition` holds of it."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout_s):
                raise AssertionError(f"still only {len(self)} after {timeout_s:g} s, the last: {self[-3:]}")
        return self

    def at_least(self, number: int) -> "Seen[T]":
        """Itself, once there are at least `number`."""
        return self.until(lambda seen: len(seen) >= number)


class Watched:
    """A link and what it told of itself."""

    def __init__(self, make: Callable[[Callable[[str], None], Callable[[str], None]], Link]) -> None:
        self.ups: Seen[str] = Seen()
        self.downs: Seen[str] = Seen()
        self.link: Any = make(self.ups.append, self.downs.append)

    def start(self) -> "Watched":
        self.link.start()
        return self

    def up(self, times: int = 1) -> "Watched":
        """Once it has come up for the `times`-th time."""
        self.ups.at_least(times)
        return self

    def send(self, exchange: str, key: str, body: bytes = b"{}", deadline_s: float = TIMEOUT_S) -> Outcome:
        """Publish and wait for the outcome."""
        outcomes: Seen[Outcome] = Seen()
        self.link.publish(exchange, key, body, on_done=outcomes.append, deadline_s=deadline_s)
        return outcomes.at_least(1)[0]


class Rig(Protocol):
    """A running broker. Names that tests use on it are made by `name`, so that they never meet."""

    endpoint: str
    dead_endpoint: str

    def make_link(
        self,
        topology: Topology,
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
        *,
        endpoints: tuple[str, ...] = (),
    ) -> Link: ...

    def cut(self) -> None:
        """The broker drops every connection."""

    def crash(self) -> None:
        """The broker ends without a word; its data stay."""

    def revive(self) -> None: ...

    def block(self) -> None:
        """The broker takes no messages any more (an alarm)."""

    def unblock(self) -> None: ...

    def delete_queue(self, name: str) -> None: ...

    def truncate(self, stream: str) -> None:
        """What is at the beginning of the stream goes the way of retention."""

    def forget(self, stream: str) -> None:
        """The stream is replaced by one that is empty."""

    def end(self) -> None: ...


def name(what: str) -> str:
    """A name that nobody else uses."""
    return f"{what}.{uuid4().hex[:12]}"


class MemoryRig:
    endpoint, dead_endpoint = "memory://broker", "memory://nobody"

    def __init__(self) -> None:
        self.broker = MemoryBroker([self.endpoint])
        self.cut, self.crash, self.revive = self.broker.cut, self.broker.stop, self.broker.start
        self.unblock, self.delete_queue = self.broker.unblock, self.broker.delete_queue

    def make_link(
        self,
        topology: Topology,
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
        *,
        endpoints: tuple[str, ...] = (),
    ) -> Link:
        return MemoryLink(
            self.broker, topology=topology, on_up=on_up, on_down=on_down, endpoints=endpoints or (self.endpoint,)
        )

    def block(self) -> None:
        self.broker.block("memory")

    def truncate(self, stream: str) -> None:
        records = self.broker.streams[stream]
        records.truncate(records.next - 1)

    def forget(self, stream: str) -> None:
        self.broker.streams[stream].forget(0)

    def end(self) -> None:
        pass


class RabbitRig:
    """One RabbitMQ for many tests; whoever breaks it mends it."""

    def __init__(self, directory: Path) -> None:
        authority, files = trustme.CA(), {part: directory / f"{part}.pem" for part in ("ca", "node", "key")}
        server = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(files["ca"])
        server.cert_chain_pems[0].write_to_path(files["node"])
        server.private_key_pem.write_to_path(files["key"])
        (directory / "password").write_text(PASSWORD)
        amqps, distribution, epmd, dead = free_ports(4)
        self.broker = Broker(
            directory / "broker",
            BrokerPorts(amqps, distribution, epmd),
            certificate=files["node"],
            key=files["key"],
            ca=files["ca"],
            users=[BrokerUser(USER, directory / "password")],
        )
        self.endpoint, self.dead_endpoint = self.broker.endpoint, f"amqps://127.0.0.1:{dead}"
        self.credentials = Credentials(USER, PASSWORD, str(files["ca"]))
        self.broker.start()

    def make_link(
        self,
        topology: Topology,
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
        *,
        endpoints: tuple[str, ...] = (),
        heartbeat_s: int = 10,
        home_after_s: float | None = None,
    ) -> Link:
        return RabbitLink(
            name="test",
            endpoints=endpoints or (self.endpoint,),
            credentials=self.credentials,
            topology=topology,
            on_up=on_up,
            on_down=on_down,
            heartbeat_s=heartbeat_s,
            connect_timeout_s=5.0,
            backoff=Backoff(first_s=0.02, longest_s=0.5),
            home_after_s=home_after_s,
        )

    @contextmanager
    def second_door(self, directory: Path, port: int) -> Iterator[None]:
        """The same broker at another port as well, as long as this lasts."""
        inside = self.broker.endpoint.rpartition("/")[2]
        configuration = directory / "door.cfg"
        configuration.write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
            f"listen door\n  bind 127.0.0.1:{port}\n  server broker {inside}\n"
        )
        process = start(["haproxy", "-db", "-f", configuration], log=directory / "door.log")
        try:
            yield
        finally:
            process.kill()

    def crash(self) -> None:
        self.broker.kill()

    def revive(self) -> None:
        self.broker.start()

    def cut(self) -> None:
        self.broker.ctl("close_all_user_connections", USER, "for a test")

    def block(self) -> None:
        self.broker.ctl("set_vm_memory_high_watermark", "0.00001")

    def unblock(self) -> None:
        self.broker.ctl("set_vm_memory_high_watermark", "0.4")

    def delete_queue(self, name: str) -> None:
        self.broker.ctl("delete_queue", "--vhost", self.credentials.vhost, name)

    def truncate(self, stream: str) -> None:
        """Write until retention has removed the first segment."""
        watched = Watched(lambda up, down: self.make_link(Topology(), up, down)).start()
        while self._first_offset(stream) == 0:
            outcomes: Seen[Outcome] = Seen()
            for _ in range(200):
                watched.link.publish("", stream, bytes(4000), on_done=outcomes.append, deadline_s=TIMEOUT_S)
            outcomes.at_least(200)
        watched.link.close()

    def _first_offset(self, stream: str) -> int:
        seen: Seen[int] = Seen()
        reading = Subscription(
            stream, lambda one: seen.append(one.offset or 0), 1, lambda: {"x-stream-offset": "first"}
        )
        watched = Watched(lambda up, down: self.make_link(Topology(subscriptions=[reading]), up, down)).start()
        first = seen.at_least(1)[0]
        watched.link.close()
        return first

    def forget(self, stream: str) -> None:
        self.delete_queue(stream)

    def end(self) -> None:
        self.broker.kill()


def wait_for(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """For what nobody tells of: look again and again."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s")
        threading.Event().wait(0.01)
