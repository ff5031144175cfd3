"""The RabbitMQ on this host: looked at, joined to the others, taken out again. As root.

Whatever changes something here may be interrupted anywhere and begun again: it looks first at what there is.
"""

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from provider.broker.host import foreign
from provider.broker.host.commands import (
    DEADLINE_S,
    BrokerAway,
    CommandFailed,
    Commands,
    CookieRefused,
    Place,
    as_user,
    guest,
    service,
    wait_until_s,
)
from provider.broker.host.company import Answer, Company, company
from provider.broker.host.cookie import change_cookie, must_let_in, write_cookie
from provider.broker.host.facts import VHOST, Facts, facts, objections, series
from provider.broker.host.handshake import why_refused
from provider.broker.host.hosts import with_block
from provider.broker.host.plan import Seen
from provider.broker.host.questions import ASK, FAREWELL, About, about, ask_copy, ask_entry, copy, entry
from provider.broker.host.wanted import is_cookie
from provider.core.documents import BrokerNode
from shared.errors import BellwetherError, Refused
from shared.files import read_text, write_atomically

SKEW_S = 2.0
"""Clocks that differ by more are refused, unless the cluster's setting says otherwise."""
START_S = 330.0
"""A broker waits this long for the others of its cluster when it starts (RabbitMQ: 10 times 30 s)."""
TURN_S = 60.0
"""How long the others may take to know the name of a host that joins, and another host to join before it."""
REPLICA_S = 60.0
WAKES_S = 10.0
"""How long a broker that has just started may take to start its copy of a stream."""
RESTARTED_S = 30.0
"""How long a stream may take that was started anew."""
PATIENT_S = 15.0
"""So long a broker itself waits for what it was asked for."""
RESET_S = 60.0
DEFINITIONS_S = 60.0
"""Each agent has a user: there may be thousands."""
GOES_S = 90.0
"""How long a broker that leaves asks its cluster to let it go, before it goes without."""
SEEN_S = 20.0
"""While another broker goes, such a question may hang; asked again it is answered."""


class LocalBroker:
    """Blocking; for one thread. Every method raises `BrokerAway` where a broker that is needed does not answer,
    `Refused` where something rules it out, `CommandFailed` where RabbitMQ said no; each in one plain sentence."""

    def __init__(self, place: Place | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` is told of each step that changes something."""
        self.place = place or Place()
        self._say = say
        self._commands = Commands(self.place)
        self._known: About | None = None
        """What this host's broker said last, until something was changed: each question takes a second, on a busy host
        several."""
        self.software: Mapping[str, Any] | None = None
        """Its version and plug-ins, by what it said last while it ran."""

    @property
    def installed(self) -> bool:
        return self.place.installed

    @property
    def prepared(self) -> bool:
        """Whether `broker-setup` has been here."""
        return self.installed and (self.place.configuration / "conf.d" / "bellwether.conf").exists()

    # ── looked at ──

    def facts(self) -> Facts:
        """Of this host's broker. One whose joining was interrupted is started first."""
        told = self._own()
        if not told.running:
            self._change("start_app", deadline_s=START_S)
            told = self._own()
        return facts(told)

    def look(self) -> About:
        """What this host's broker says of itself, also one that waits for others. Changes nothing."""
        self._known = None
        return self._own()

    def _own(self, deadline_s: float = DEADLINE_S) -> About:
        """What this host's broker says of itself."""
        if self._known is None:
            self._known = about(self._commands.evaluate(ASK, deadline_s=deadline_s))
            if self._known.running:
                self.software = {"version": self._known.version, "plugins": list(self._known.plugins)}
        return self._known

    def _change(self, *command: str, deadline_s: float = DEADLINE_S) -> None:
        """Something is different after this rabbitmqctl command."""
        self._known = None
        self._commands.run("rabbitmqctl", *command, deadline_s=deadline_s)

    def cookie(self) -> str:
        """The Erlang cookie of this host's broker: whoever has it can do anything with it."""
        return read_text(self.place.cookie).strip()

    def check(self, peers: Sequence[BrokerNode], cookie: str, *, skew_s: float = SKEW_S) -> Company:
        """Whom it is to join. Raises `Refused`, in one plain sentence for each thing that differs, where this broker
        cannot be one of `peers`, whose cookie that is. Changes nothing, here or there."""
        own = self.facts()
        problems = objections(own, peers)
        with_block(read_text(self.place.etc_hosts), peers, own.node)
        others = [peer for peer in peers if peer.node != own.node]
        found = self._asked(others, cookie)
        met = company(others, {node: answer for node, (answer, _) in found.items()})
        for peer in met.brokers:
            there, off_s = found[peer.node]
            if off_s > skew_s:
                problems.append(f"the clocks of this host and of {peer.node}'s differ by {off_s:.1f} s at least")
            assert isinstance(there, About)  # noqa: S101 - `company` sees to it
            now = peer.model_copy(update={"version": there.version, "plugins": there.plugins})
            problems += [one for one in objections(own, [now]) if peer.node in one]
        if problems:
            raise Refused("; ".join(dict.fromkeys(problems)))
        return met

    def _asked(self, peers: Sequence[BrokerNode], cookie: str) -> dict[str, tuple[Answer, float]]:
        """What they say, or why they do not, all asked at once; and by how many seconds their hosts' clocks differ from
        this one's at least."""
        with guest(self.place, cookie, peers) as there, ThreadPoolExecutor() as pool:
            answers = pool.map(lambda peer: self._ask(there, peer), peers)
            return dict(zip((peer.node for peer in peers), answers, strict=True))

    def _ask(self, there: Commands, peer: BrokerNode) -> tuple[Answer, float]:
        began_s = time.time()
        try:
            told = about(there.evaluate(ASK, node=peer.node))
        except CookieRefused:
            return why_refused(peer, self.place.configuration / "bellwether"), 0.0
        except BellwetherError as error:
            return error, 0.0
        return told, max(began_s - told.clock_s, told.clock_s - time.time())

    def replicate_metadata(self) -> None:
        """Has RabbitMQ keep what it knows of users, exchanges and queues in Khepri, which has a majority decide. Its
        older way, Mnesia, forgets a part of it when brokers lose sight of each other for a moment, and says nothing.
        Those that join take it over. Nothing before 4.0, where it was not fit for use."""
        if series(self.facts().version) >= (4, 0):
            self._change("enable_feature_flag", "--opt-in", "khepri_db")

    # ── joined ──

    def join(self, peers: Sequence[BrokerNode], cookie: str, own_address: str, *, skew_s: float = SKEW_S) -> Company:
        """Makes this host's broker one of `peers`, whose cookie that is, after `check`. What it held is deleted. Those
        of them who are joining themselves, at this moment, are left out, and returned with the others.

        Waits until the hosts of the others know this one: they do once the state has it.
        """
        met = self.check(peers, cookie, skew_s=skew_s)
        own = self.facts()
        self.know(peers, own.node)
        if set(own.others) & {peer.node for peer in met.brokers}:
            self.use_cookie(cookie)
            return met
        host = own.node.partition("@")[2]
        with guest(self.place, cookie, met.brokers) as there, self._turn(there, met.brokers, host, own_address) as now:
            self.know(met.with_those(now, peers), own.node)
            if own.node in met.known:  # it was emptied behind their backs
                there.run("rabbitmqctl", "forget_cluster_node", own.node, node=met.brokers[0].node)
            self.use_cookie(cookie)
            self._say(f"joining the broker of this host to {met.brokers[0].node}")
            # It stops, empties and starts by itself a broker that runs.
            self._change("join_cluster", met.brokers[0].node, deadline_s=START_S)
        return met

    @contextmanager
    def _turn(
        self, there: Commands, others: Sequence[BrokerNode], host: str, address: str
    ) -> Iterator[Mapping[str, str]]:
        """Waits until the hosts of the others know this one, and no other broker joins them within this block. One that
        takes very long is not waited for. Yields who is in the cluster by then, and at which address."""
        question = ask_entry([peer.node for peer in others], host, address, PATIENT_S)
        noted, unaware = False, ""
        for _ in wait_until_s(TURN_S):
            with there.asking(question, node=others[0].node) as answer:
                found = entry(answer)
                if found.turn:
                    yield found.cluster
                    return
            lacking = [f"{node}, which knows {at or 'nothing'}" for node, at in found.known.items() if at != address]
            unaware = "; ".join(lacking)
            if not unaware and not noted:
                self._say("waiting: another broker is joining at this moment")
                noted = True
        if unaware:
            raise BrokerAway(
                f"that {host} is {address} is not known yet on the host of {unaware}: is bellwether-broker.path "
                "enabled there?"
            )
        yield found.cluster

    def know(self, brokers: Sequence[BrokerNode], own: str) -> None:
        """Has this host know the names of the others' hosts. Raises `Refused` where /etc/hosts says otherwise."""
        path = self.place.etc_hosts
        text = read_text(path)
        wanted = with_block(text, brokers, own)
        if wanted != text:
            write_atomically(path, wanted, mode=0o644)
            self._say(f"wrote the names of the brokers' hosts to {path}")

    def use_cookie(self, cookie: str) -> None:
        """The broker and its commands use this cookie from now on. Connections that are open stay."""
        if not is_cookie(cookie):
            raise Refused("this is no Erlang cookie: 16 to 255 letters, digits, or + / = _ - are")
        if self.cookie() != cookie:
            self._known = None
            change_cookie(self.place, self._commands, cookie)
            self._say("the broker has another Erlang cookie")
        elif self._known is None:
            must_let_in(self._commands)

    def write_cookie(self, cookie: str) -> None:
        """For the broker's next start, after which it may be another one."""
        self._known = None
        write_cookie(self.place, cookie)

    def ensure_replica(self, stream: str, vhost: str = VHOST) -> None:
        """Has this broker hold a copy of the stream, and waits until it is in touch with the others', and has a say in
        who leads it: without that the loss of another one would leave too few who do."""
        self._say(f"copying the log ({stream}) to this host's broker")
        self._known = None
        question = ask_copy(vhost, stream, PATIENT_S, add=True)
        why = "it has not begun"
        for _ in wait_until_s(REPLICA_S):
            try:
                found = copy(self._commands.evaluate(question))
            except (BrokerAway, CommandFailed) as error:
                # Brokers may be electing, or too busy to answer in time. Asked again they say what it is.
                why = error.detail
                continue
            if found.whole:
                return
            if not found.running:
                self._change("start_app", deadline_s=START_S)
            elif not found.there:
                raise Refused(f"the brokers have no stream {stream} in virtual host {vhost}")
            why = found.lacks
        raise BrokerAway(f"no copy of {stream} on {self.expected_node()} within {REPLICA_S:.0f} s: {why}")

    # ── kept as wanted ──

    def restart(self) -> None:
        """Returns when it runs again."""
        self._known = None
        service("restart")

    def definitions(self) -> dict[str, Any]:
        """Users with the hashes of their passwords, virtual hosts, exchanges and so on, as RabbitMQ exports them."""
        told = self._commands.run(
            "rabbitmqctl", "export_definitions", "-", "--format", "json", deadline_s=DEFINITIONS_S
        )
        found = json.loads(told)
        assert isinstance(found, dict)  # noqa: S101 - as RabbitMQ documents it
        return found

    def define(self, definitions: Path) -> None:
        """Makes what is in such a file, which RabbitMQ's user can read, on a broker that has begun with nothing."""
        self._known = None
        self._commands.run("rabbitmqctl", "import_definitions", str(definitions), deadline_s=DEFINITIONS_S)
        with suppress(CommandFailed):  # RabbitMQ makes it by itself, unless it is told otherwise
            self._commands.run("rabbitmqctl", "delete_user", "guest")

    def mend(self, *, alone: bool) -> None:
        """Starts a broker anew that runs and has lost its metadata store, as after its disk was full: it lets nobody
        in, and does not come round by itself. One that is `alone`, as it is meant to be, and has come from an older
        RabbitMQ, keeps its metadata in Khepri from now on, before others join it."""
        try:
            told = self._own(SEEN_S)
        except BrokerAway:
            return  # what comes next says so
        if told.store_ended:
            self._say("RabbitMQ has lost its metadata store, and lets nobody in: starting it anew")
            self.restart()
        elif alone and told.running and not told.khepri and series(told.version) >= (4, 0):
            self._say("RabbitMQ is to keep its metadata in Khepri")
            self.replicate_metadata()

    def expected_node(self) -> str:
        """What this host's broker is called: after the host."""
        return f"rabbit@{socket.gethostname().partition('.')[0]}"

    def seen(self) -> Seen:
        """Raises `BrokerAway` where the broker is not running, or has stopped because it sees no majority."""
        told, self._known = self._own(SEEN_S), None  # the next look is a new one
        if not told.running:
            raise BrokerAway("the RabbitMQ on this host starts, or waits for others of its cluster")
        return Seen(
            own=self.expected_node(),
            cluster=frozenset(told.cluster),
            running=frozenset(told.seen),
            replicas={name: nodes for vhost, name, nodes in told.streams if vhost == VHOST},
            empty=not told.queues,
            asleep=frozenset(name for vhost, name in told.asleep if vhost == VHOST),
        )

    def wake_replica(self, stream: str, vhost: str = VHOST) -> None:
        """Has RabbitMQ start a stream anew whose copy here does not run, unless it starts by itself meanwhile. A broker
        that was killed may come back without it, and then goes on without it for ever (seen with 4.0.5)."""
        self._known = None
        if self._runs(stream, vhost, WAKES_S):
            return
        self._say(f"the copy of {stream} on this broker does not run: starting the stream anew")
        self._commands.run("rabbitmq-streams", "restart_stream", "--vhost", vhost, stream)
        if not self._runs(stream, vhost, RESTARTED_S):
            raise BrokerAway(f"the copy of {stream} on this broker has not begun within {RESTARTED_S:.0f} s")

    def _runs(self, stream: str, vhost: str, within_s: float) -> bool:
        return copy(self._commands.evaluate(ask_copy(vhost, stream, within_s, add=False))).online

    def cut_off(self, node: str) -> None:
        """Ends this broker's connection with another one, which has the old cookie and cannot come back."""
        self._say(f"ending the connection with {node}")
        self._known = None
        self._commands.evaluate(f"erlang:disconnect_node('{node}').")

    def forget(self, node: str) -> None:
        """Another host may be quicker."""
        self._say(f"forgetting {node}")
        self._known = None
        try:
            self._commands.run("rabbitmqctl", "forget_cluster_node", node, deadline_s=START_S)
        except CommandFailed as error:
            if "not_a_cluster_node" not in error.output:
                raise

    def drop_replica(self, stream: str, node: str, vhost: str = VHOST) -> None:
        self._say(f"deleting the copy of {stream} that was on {node}")
        self._known = None
        try:
            self._commands.run("rabbitmq-streams", "delete_replica", "--vhost", vhost, stream, node)
        except CommandFailed:
            held = {(where, name): nodes for where, name, nodes in self._own().streams}
            if node in held.get((vhost, stream), ()):  # else another host was quicker
                raise

    # ── taken out ──

    def leave(self, *, everything: bool = False) -> None:
        """Takes this host's broker out of its cluster, empties it, and gives it a cookie of its own. One that cannot
        start any more, as its cluster has forgotten it, is emptied where it lies. Nothing, where that was done.

        Raises `Refused` where it holds what is not Bellwether's, unless `everything` is to go."""
        own, known = self.expected_node(), None
        with suppress(BrokerAway):
            known = self.facts() if self._own().running else None
        if not everything:
            foreign.must_be_ours(known, self.place.data / own)
        try:
            if known is None:
                self._wipe(own)
            elif known.others or known.holds:
                self._leave_orderly(known)
        except BrokerAway:
            self._wipe(own)
        self.know((), own)

    def _leave_orderly(self, known: Facts) -> None:
        self._say("taking the broker of this host out of its cluster, and emptying it")
        self._known = None
        if set(known.running) - {known.node}:
            with suppress(BrokerAway, CommandFailed):  # the others may go at the same time, or not let it in any more
                self._commands.evaluate(FAREWELL)
        self._change("stop_app")
        if not self._let_go():  # the others are gone, or have another cookie already
            self._wipe(self.expected_node())
            return
        self.use_cookie(secrets.token_urlsafe(32))
        self._change("start_app", deadline_s=START_S)

    def _let_go(self) -> bool:
        """Whether the cluster of this broker let it go, which empties it. It is asked again for a while: the others may
        be electing. Who goes without that takes its vote along, and of two the other one is then stuck for ever."""
        said = ""
        for _ in wait_until_s(GOES_S):
            try:
                self._change("reset", deadline_s=RESET_S)
            except (BrokerAway, CommandFailed) as error:
                if error.detail != said:
                    self._say(f"its cluster does not let it go yet, asking again: {error.detail}")
                said = error.detail
            else:
                return True
        return False

    def _wipe(self, own: str) -> None:
        self._say("emptying the broker of this host where its data lies, without the others")
        self._known = None
        service("stop")
        for path in sorted(self.place.data.glob(f"{own}*")):
            as_user(self.place.user, ["/bin/rm", "-rf", "--", str(path)])
        self.write_cookie(secrets.token_urlsafe(32))
        service("start")
