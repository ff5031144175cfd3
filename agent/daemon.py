"""Wires the agent together and runs it. Who owns what:

    main thread        this module: the inbox, `Session`, broker.json, status.json
    one per instance   `Worker`: the connection to the database server
    one per link       shared.rabbitmq: the connection to the broker; two for a moment while moving
    watchdog's         `FileWatch`

Everything reaches the main thread through the inbox. Nothing here waits for the network.
"""

import heapq
import itertools
import queue
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent import brokerfile, credentials
from agent.brokerfile import BrokerSettings
from agent.connection import Attempt, LinkFactory
from agent.conversation import Conversation
from agent.credentials import Held
from agent.mariadb import MariaDB
from agent.session import MakePassword, Note, Session, UsePassword
from agent.settings import AgentFiles, AgentSettings
from agent.status import StatusFile
from agent.watch import FileWatch
from agent.worker import Worker
from shared.bus import Credentials, Delivery
from shared.errors import Invalid, Refused
from shared.files import write_atomically
from shared.logs import log
from shared.messages import DesiredInstance, ObservedInstance
from shared.systemd import Watchdog, notify
from shared.version import VERSION

TICK_S = 0.5
"""How often connection and status are looked at when nothing happens."""
SETTLE_S = 0.15
"""Editors write in several steps. A look in between would report an invalid file that is not."""
CLOSE_S = 3.0


@dataclass(frozen=True, slots=True)
class _Arrived:
    delivery: Delivery
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class _Seen:
    observed: ObservedInstance
    revision: int


@dataclass(frozen=True, slots=True)
class _Unsent:
    """A hello or report that may not have arrived."""


@dataclass(frozen=True, slots=True)
class _Touched:
    """Something happened to broker.json or the CA file."""


@dataclass(frozen=True, slots=True)
class _Wake:
    """A connection came or went: look at it now."""


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Event = _Arrived | _Seen | _Unsent | _Touched | _Wake | _Stop


class Daemon:
    """One agent. `run` is called once, from the main thread; `stop` from any thread or signal handler."""

    def __init__(
        self, settings: AgentSettings, files: AgentFiles, broker: BrokerSettings, held: Held, make_link: LinkFactory
    ) -> None:
        self._settings = settings
        self._files = files
        self._username = settings.broker_username or settings.id
        self._held = held
        # SimpleQueue: its put may be called from a signal handler that interrupts a get.
        self._inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._session = Session(
            version=VERSION,
            session=secrets.token_hex(8),
            instances=[one.id for one in settings.instances],
            broker=broker,
            files=files,
            credential=held.number,
            offer=held.offer,
        )
        self._workers = {
            one.id: Worker(one, MariaDB(one), files.accounts(one.id), lambda o, r: self._inbox.put(_Seen(o, r)))
            for one in settings.instances
        }
        self._conversation = Conversation(
            settings.id,
            self._session,
            self,
            make_link,
            lambda delivery, attempt: self._inbox.put(_Arrived(delivery, attempt)),
            lambda: self._inbox.put(_Wake()),
            stagger_s=settings.stagger_s,
            return_s=settings.return_s,
        )
        self._watch = FileWatch(
            files.directory, {files.broker.name, files.ca.name}, lambda: self._inbox.put(_Touched())
        )
        self._status = StatusFile(files.status)
        self._file_error: str | None = None
        self._settles_at: float | None = None
        self._ready = False
        self._watchdog, self._said_alive_s = Watchdog.from_environment(), 0.0

    def stop(self) -> None:
        """Make `run` return soon."""
        self._inbox.put(_Stop())

    def run(self) -> None:
        """Work until `stop`."""
        log(session=self._session.session, version=VERSION).info("agent started")
        self._watch.start()
        for worker in self._workers.values():
            worker.start()
        self._conversation.begin()
        self.after(self._settings.pulse_s, self._pulse)
        try:
            while self._turn():
                pass
        finally:
            notify("STOPPING=1")
            self._close()
            log().info("agent stopped")

    def _turn(self) -> bool:
        """Wait for the next event or timer and handle it. False: stop."""
        deadline = min(self._timers[0][0] if self._timers else float("inf"), time.monotonic() + TICK_S)
        try:
            event = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            event = None
        if isinstance(event, _Stop):
            return False
        if event is not None:
            self._handle(event)
        self._conversation.look()
        self._look_at_connection()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        self._status.update(self._session, self._conversation.placement, self._file_error)
        self._say_alive(now)
        return True

    def _say_alive(self, now_s: float) -> None:
        """Each turn is a sign of life: workers and links that hang are shown in reports, and replaced."""
        pause_s = self._watchdog.pause_s
        if pause_s is not None and now_s - self._said_alive_s >= pause_s:
            self._said_alive_s = now_s
            notify("WATCHDOG=1")

    def _handle(self, event: _Event) -> None:
        match event:
            case _Arrived(delivery, attempt):
                self._conversation.arrived(delivery, attempt)
            case _Seen(observed, revision):
                self._conversation.do(self._session.seen(observed, revision))
            case _Unsent():
                self._conversation.say_again()
            case _Touched() if self._settles_at is None:
                self._settles_at = time.monotonic() + SETTLE_S
                self.after(SETTLE_S, self._settled)
            case _Touched():
                self._settles_at = time.monotonic() + SETTLE_S
            case _Wake() | _Stop():
                pass

    # ── what the conversation asks for ───────────────────────────────────────────────────────────────────────────────

    def after(self, wait_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + wait_s, next(self._numbers), action))

    def note(self, note: Note) -> None:
        log(**note.fields).log(note.level, note.text)

    def fulfil(self, revision: int, desired: Mapping[str, DesiredInstance]) -> None:
        for name, worker in self._workers.items():
            worker.wish(revision, desired.get(name))

    def store(self, settings: BrokerSettings) -> bool:
        try:
            brokerfile.write_unless_newer(settings, self._files)
        except Refused as error:  # a command was quicker: `edited` tells what it wrote
            log(file=self._files.broker).warning("not written, the advice is not acknowledged: {}", error.detail)
            return False
        except OSError as error:
            log(file=self._files.broker).error("cannot be written, the advice is not acknowledged: {}", error)
            return False
        self._file_error = None
        return True

    def login(self, settings: BrokerSettings) -> Credentials:
        first, *others = self._held.passwords
        if not settings.ca_file.exists():
            write_atomically(settings.ca_file, settings.ca)  # broker.json holds the PEM text itself
        return Credentials(self._username, first, str(settings.ca_file), settings.vhost, tuple(others))

    def unsent(self) -> None:
        self._inbox.put(_Unsent())

    # ── the broker password ──────────────────────────────────────────────────────────────────────────────────────────

    def _hold(self, held: Held) -> bool:
        try:
            credentials.write(held, self._files)
        except OSError as error:
            log(file=self._files.credential).error("cannot be written, the broker password stays as it is: {}", error)
            return False
        self._held = held
        return True

    def change_password(self, instruction: MakePassword | UsePassword) -> None:
        if self._held.active:  # being used already; and one that the broker knows is not given up for another
            return
        if isinstance(instruction, UsePassword):
            if self._hold(self._held.activated()):
                self._conversation.use(self._session.broker, stay=True)
            return
        held = self._held.with_next(instruction.number)
        if self._hold(held) and held.offer is not None:
            self._conversation.do(self._session.made(held.offer))

    def _look_at_password(self) -> None:
        """Whether the connection in use was made with the next password: then the one before is of no more use."""
        if self._held.next_password is None or self._conversation.connection.password != self._held.next_password:
            return
        switched = self._held.switched()
        if self._hold(switched):
            self._conversation.do(self._session.switched(switched.number))

    # ── broker.json, connection, time ────────────────────────────────────────────────────────────────────────────────

    def _settled(self) -> None:
        """Read broker.json, once it has been quiet for a moment."""
        wait_s = (self._settles_at or 0.0) - time.monotonic()
        if wait_s > 0:
            self.after(wait_s, self._settled)
            return
        self._settles_at = None
        try:
            edited = brokerfile.read(self._files)
        except Invalid as error:
            if error.detail != self._file_error:
                log().error("broker.json is not valid, the settings before stay in use: {}", error.detail)
            self._file_error = error.detail
            return
        self._file_error = None
        self._conversation.do(self._session.edited(edited))

    def _look_at_connection(self) -> None:
        if self._session.endpoint is None:
            return
        self._look_at_password()
        if not self._ready:
            self._ready = True
            notify("READY=1")

    def _pulse(self) -> None:
        self._conversation.do(self._session.pulse())
        self.after(self._settings.pulse_s, self._pulse)

    def _close(self) -> None:
        self._watch.close()
        self._conversation.connection.close(CLOSE_S)
        for worker in self._workers.values():
            worker.close(CLOSE_S)
        self._status.stopped()
