"""A running provider: the one place where the parts are put together. `starting` comes before."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from provider.api.access.bookkeeping import record_uses
from provider.api.access.refused import TokensRefused
from provider.api.app import create_app, stamp
from provider.api.context import Context
from provider.api.forward import Forwarder
from provider.api.gateway import Gateway, Signal
from provider.api.http.guard import Guard
from provider.api.http.server import Server
from provider.api.record.refusals import Refusals
from provider.api.record.telling import Telling
from provider.backup.schedule import Backups
from provider.broker.links import Links
from provider.broker.management import Management
from provider.broker.own import OwnBroker
from provider.broker.reconciler import BrokerUsers
from provider.broker.users import concerned
from provider.condition import newest_of
from provider.core.commands import LOG_SIZES, Command, need
from provider.core.pending import Result
from provider.core.state import Accepted, Answer, State
from provider.engine import Engine
from provider.fleet.hearing import Hearing
from provider.fleet.hub import Hub, RefusedMessage
from provider.janitor import Janitor
from provider.log.port import Position
from provider.log.stream import StreamLog
from provider.metrics import metrics_of, render
from provider.recovery.members import HttpMembers
from provider.recovery.recovery import Recovery
from provider.settings import Files, ProviderSettings, configuration, fingerprint_of, set_apart
from provider.standing import of_this
from provider.store import Store
from provider.trust.authorities import peer_node
from provider.trust.keeping import Trust
from provider.trust.peers import Peers
from shared.errors import TOKEN_NOT_GOOD, BellwetherError, Refused
from shared.logs import log
from shared.messages import NodePulse, now_text
from shared.systemd import Watchdog, notify
from shared.tls import client_context
from shared.version import VERSION

OWN_WRITE_WAIT_S = 5.0
USER_WAIT_S = 5.0
BEATS_FOR_S = 8.0
"""A primary beats for so long after it has last read the log back: brokers that elect a leader take some 5 s."""


class _Part(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


class Node:
    """One provider: threads for the log, the engine, the fleet; the event loop for the API."""

    def __init__(
        self, settings: ProviderSettings, files: Files, store: Store, loaded: tuple[State, Position | None]
    ) -> None:
        self.settings, self.files, self.store = settings, files, store
        self._started = now_text()
        self._configuration, self._set_apart = fingerprint_of(configuration(settings)), set_apart(settings)
        self._own: dict[int, Callable[[bool], None]] = {}
        self._gateway: Gateway | None = None
        self._heard: Signal | None = None
        self._failure: BellwetherError | None = None
        """Why this node must not go on."""
        self._known = state = loaded[0]
        """The newest durable state, from before there is an engine."""
        self.trust = Trust(
            settings,
            files,
            state,
            state=lambda: self.engine.state,
            view=lambda: self.hub.view,
            commit=self._commit,
            reach=self._reach,
            on_expelled=self._expelled,
            current=lambda: self.engine.health.caught_up,
            connected=lambda: self.engine.health.connected,
            software=lambda: self.own_broker.software,
        )
        self.links = Links(settings, files, self._turned_away_by_broker, lambda: self._known)
        if not state.of("authority"):
            raise Refused(
                f"the state in {settings.data_dir} is of a version that kept the authority in a file; this one cannot "
                "go on with it: begin a new cluster with `provider init` in another directory"
            )
        sizes = need(state, "setting", LOG_SIZES).spec["value"]
        self.engine = Engine(
            node=settings.name,
            store=store,
            make_log=lambda generation: StreamLog(
                generation=generation,
                make_link=self.links.make,
                max_length_bytes=sizes["max_bytes"],
                segment_bytes=sizes["segment_bytes"],
                max_age_s=sizes.get("max_age_s"),
            ),
            on_applied=self._applied,
            on_results=self._results,
            loaded=loaded,
        )
        self.hub = Hub(
            node=settings.name,
            username=settings.broker.username,
            state=self.engine.state,
            make_link=lambda topology, up, down: self.links.make("bus", topology, self._bus_up(up), down),
            submit=self._submit,
            advice=self.trust.membership.advice,
            unseal=self.trust.vault.unseal,
            pulse=self._pulse,
            on_change=self._heard_something,
            on_refused=self._message_refused,
            on_suspended=self._suspended,
            commits=lambda: time.monotonic() - self.engine.health.read_back_s < BEATS_FOR_S,
            on_broker=lambda user, password_hash: self.users is not None and self.users.has(user, password_hash),
        )
        self.peers = Peers(settings.name, files, lambda: self.engine.state)
        self.hearing = Hearing(self.hub.unheard, self._alive, self.hub.reconnect)
        self.recovery = Recovery(
            node=settings.name,
            engine=self.engine,
            store=store,
            data_dir=settings.data_dir,
            members=HttpMembers(files, lambda: self.engine.state.revision),
            view=lambda: self.hub.view,
            on_disowned=self._expelled,
        )
        self.refusals = Refusals(settings.name)
        self.users = self._broker_users()
        self.own_broker = OwnBroker(
            node=settings.name,
            data_dir=settings.data_dir,
            state=state,
            vault=self.trust.vault,
            on_software=self.trust.look_again,
        )
        self.janitor = Janitor(store, lambda: self.engine.state)
        self.backups = Backups(
            settings, files, self.trust.vault, lambda: self.engine.state, lambda: self.engine.health.caught_up
        )

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._gateway = gateway = Gateway(self.engine, loop)
        self._heard = Signal(loop)
        api = self.settings.api
        forwarder = Forwarder(
            node=self.settings.name,
            tls=lambda: self.trust.client_tls,
            timeout_s=api.primary_wait_s + api.commit_wait_s,
        )
        guard, refused = Guard(api), TokensRefused()
        registry = metrics_of(
            self.settings.name, self.engine, self.hub, self.trust.membership, guard, self.refusals.counts, refused
        )
        context = Context(
            settings=self.settings,
            gateway=gateway,
            hub=self.hub,
            heard=self._heard,
            vault=self.trust.vault,
            membership=self.trust.membership,
            past=self.store,
            history=self.store.history,
            oldest_history=self.store.oldest_history,
            broker_user_ready=self._user_ready,
            forwarder=forwarder,
            guard=guard,
            refusals=self.refusals,
            metrics=lambda: render(registry),
            tokens_refused=refused,
            untrusting=self.trust.untrusting,
            own_broker_problem=lambda: self.own_broker.problem or self.own_broker.hindrance,
        )
        server = Server(
            create_app(context),
            api.listen,
            guard=guard,
            tls=lambda: self.trust.server_tls,
            stamp=partial(stamp, context),
            member=lambda der: peer_node(self.engine.state, der) is not None,
            draining=lambda: context.in_maintenance,
        )
        self._end_on(loop, partial(self._end, server, context))
        parts: list[_Part] = [self.engine, self.recovery, self.hub, self.hearing, self.janitor, self.trust]
        parts += [self.own_broker, self.backups, *((self.users,) if self.users is not None else ())]
        for part in parts:
            part.start()
        telling = Telling(context)
        tasks = [asyncio.create_task(self._tell_ready(server)), asyncio.create_task(record_uses(context))]
        try:
            log(url=self.settings.url, version=VERSION, revision=self.engine.state.revision).info("provider starts")
            telling.start()
            await server.serve()
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await telling.stop()
            context.passwords.close()
            await forwarder.close()
            # Side by side: with a broker that hangs, each may take some seconds.
            await asyncio.gather(*(loop.run_in_executor(None, part.stop) for part in parts))
            self.store.close()
            log().info("provider ends")
        if self._failure is not None:
            raise self._failure

    def _end_on(self, loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
        """Signals end this node; so does a thread that fails. Without it the rest would look healthy, and would not be:
        started anew, it begins from what is durable."""

        def failed(args: threading.ExceptHookArgs) -> None:
            name = args.thread.name if args.thread is not None else "?"
            log(thread=name).opt(exception=args.exc_value).critical("a thread failed; this node ends")
            detail = args.exc_value.detail if isinstance(args.exc_value, BellwetherError) else repr(args.exc_value)
            self._failure = BellwetherError(f"the thread {name} failed, and this node with it: {detail}")
            loop.call_soon_threadsafe(end)

        threading.excepthook = failed
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)

    def _end(self, server: Server, context: Context) -> None:
        """Event loop. Streams end now, what else is open has some seconds (`timeout_graceful_shutdown`)."""
        context.ending = server.should_exit = True
        context.gateway.changed.wake()

    async def _tell_ready(self, server: Server) -> None:
        """Event loop. Ready, and from then on alive: as long as this loop turns, and the engine does."""
        await server.ready.wait()
        notify("READY=1")
        watchdog = Watchdog.from_environment()
        while watchdog.pause_s is not None:
            if watchdog.is_well(time.monotonic(), self.engine.beat_s):
                notify("WATCHDOG=1")
            await asyncio.sleep(watchdog.pause_s)

    # ── callbacks between the parts; each names the thread that it runs on ──

    def _applied(self, state: State, accepted: Sequence[Accepted]) -> None:
        """Engine's thread."""
        self._known = state
        for item in accepted:
            self.trust.applied(item.delta)
        self.own_broker.applied(state, accepted)
        self.hub.applied(state, accepted)
        self.backups.applied(accepted)
        if self._gateway is not None:
            self._gateway.changed.notify()
        for item in accepted:
            if item.record.type == "claim":
                log(epoch=state.epoch, primary=state.primary, revision=state.revision).info("epoch begins")
                if self._gateway is not None:
                    self._gateway.epochs.notify()
            if self.users is not None:
                if item.record.type == "claim":
                    self.users.look_again()
                elif named := concerned(item.delta):
                    self.users.look_again(named)

    def _results(self, pairs: list[tuple[int, Result]]) -> None:
        """Engine's thread."""
        for ticket, result in pairs:
            ended = self._own.pop(ticket, None)
            if ended is not None:
                ended(isinstance(result, Answer))
        if self._gateway is not None:
            self._gateway.results(pairs)

    def _submit(self, command: Command, ended: Callable[[bool], None]) -> None:
        """Hub's thread."""
        ticket = self.engine.ticket()
        self._own[ticket] = ended
        self.engine.submit(
            ticket,
            command,
            principal=f"node:{self.settings.name}",
            action=type(command).__name__,
            wait_s=OWN_WRITE_WAIT_S,
        )

    def _heard_something(self) -> None:
        """Hub's thread."""
        if self._heard is not None:
            self._heard.notify()

    def _message_refused(self, refused: RefusedMessage) -> None:
        """Hub's thread. Every node hears every message: one of them notes it."""
        state = self.engine.state
        if state.primary != self.settings.name:
            return
        known = refused.user is not None and state.get("agent", refused.user) is not None
        self.refusals.note(
            principal="?" if refused.user is None else f"{'agent' if known else 'broker'}:{refused.user}",
            source=None,
            action=f"message {refused.type}",
            code=refused.kind,
            status=403,
            detail=refused.why,
        )

    def _suspended(self, users: Sequence[str]) -> None:
        """Hub's thread."""
        if self.users is not None:
            self.users.look_again(users)

    def _pulse(self) -> NodePulse:
        """Hub's thread."""
        state = self.engine.state
        # Who hears it knows from the state whether this node is in maintenance.
        here = of_this(self.engine, self.hub, self.settings.name, newest_of(state.revision, self.hub.view))
        return NodePulse(
            role="primary" if state.primary == self.settings.name else "standby",
            state=here.state,
            reason=here.reason,
            version=VERSION,
            revision=state.revision,
            digest=state.digest,
            started=self._started,
            trust=self.trust.name,
            configuration=self._configuration,
            settings=self._set_apart,
        )

    # ── on the certificates' thread ──

    def _commit(self, command: Command) -> bool:
        done: Future[bool] = Future()
        self._submit(command, done.set_result)
        return done.result(OWN_WRITE_WAIT_S + 1.0)

    def _reach(self, revision: int) -> None:
        if self._gateway is not None:
            self._gateway.run(self._gateway.reach(revision, OWN_WRITE_WAIT_S))

    def _expelled(self, why: str) -> None:
        """Also on the threads of hearing and recovery."""
        if self.engine.expelled is not None:
            return
        said = "" if why == TOKEN_NOT_GOOD else why
        log(why=said or None).critical("this node is no member any more: it stays out, and so does its broker")
        self.engine.expelled = said
        self.engine.lose(said or "this node was removed from the cluster")
        self.own_broker.removed()

    def _alive(self, node: str) -> bool:
        """Hearing's thread. Whether a member answers that is not heard. One that went on without this node says so."""
        why = self.peers.disowned_by(node)
        if why is not None:
            self._expelled(why)
            return False
        return self.peers.alive(node)

    # ── the broker ──

    def _bus_up(self, up: Callable[[str], None]) -> Callable[[str], None]:
        """Bus link's thread. A broker that went away may have come back without its users."""

        def told(endpoint: str) -> None:
            up(endpoint)
            if self.users is not None:
                self.users.look_again()

        return told

    def _turned_away_by_broker(self) -> None:
        """Links' threads. This node was removed, or the broker was wiped and knows its user no more, or is not well."""
        self.trust.refused()
        self.own_broker.refused()
        if self.users is not None:
            self.users.refused()

    def _broker_users(self) -> BrokerUsers | None:
        broker = self.settings.broker
        if broker.management is None:
            log().warning("no broker management address is configured: agents' broker users must be made by hand")
            return None
        return BrokerUsers(
            node=self.settings.name,
            vhost=broker.vhost,
            management=Management(
                broker.management,
                lambda: client_context(self.files.ca),
                lambda: self.trust.membership.broker_admin(self.engine.state),
            ),
            suspended=lambda: self.hub.suspended,
            state=lambda: self.engine.state,
        )

    async def _user_ready(self, agent: str) -> None:
        """Event loop. An agent whose user is late connects as soon as it is there."""
        if self.users is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.users.wait_ready, agent, USER_WAIT_S)
