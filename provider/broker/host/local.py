"""The RabbitMQ on this host: looked at, joined to the others, taken out again. As root.

Whatever changes something here may be interrupted anywhere and begun again: it looks first at what there is.
"""

import json
import os
import pwd
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from provider.broker.host.commands import (
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
from provider.broker.host.facts import ASK, VHOST, About, Facts, about, held, objections, series
from provider.broker.host.handshake import why_refused
from provider.broker.host.hosts import with_block
from provider.broker.host.plan import Seen
from provider.core.documents import BrokerNode
from shared.errors import Refused
from shared.files import read_text, write_atomically

SKEW_S = 2.0
"""Clocks that differ by more are refused, unless the cluster's setting says otherwise."""
START_S = 330.0
"""A broker waits this long for the others of its cluster when it starts (RabbitMQ: 10 times 30 s)."""
KNOWN_S = 60.0
"""How long the others may take to know the name of a host that joins."""
REPLICA_S = 60.0
WAKES_S = 10.0
"""How long a broker that has just started may take to start its copy of a stream."""
RESTARTED_S = 30.0
"""How long a stream may take that was started anew."""
RESET_S = 60.0
SEEN_S = 20.0
"""While another broker goes, such a question may hang; asked again it is answered."""
_HAS_A_SAY = (
    "Own = {rabbit_stream_coordinator, node()}, "
    "case ra:members(Own, 5000) of {ok, All, _} -> lists:member(Own, All); _ -> false end."
)
"""RabbitMQ's coordinator of streams takes new brokers in one by one, some time after they have joined the cluster."""
_STORE_ENDED = (
    "erlang:function_exported(rabbit_khepri, is_enabled, 0) andalso rabbit_khepri:is_enabled() "
    "andalso whereis(rabbitmq_metadata) =:= undefined."
)
_COOKIE = re.compile(r"[A-Za-z0-9+/=_-]{16,255}")


class LocalBroker:
    """Blocking; for one thread. Every method raises `BrokerAway` where a broker that is needed does not answer,
    `Refused` where something rules it out, `CommandFailed` where RabbitMQ said no; each in one plain sentence."""

    def __init__(self, place: Place | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` is told of each step that changes something."""
        self.place = place or Place()
        self._say = say
        self._commands = Commands(self.place)
        self._known: Facts | None = None
        """What `facts` found last, until something was changed: each command takes a second, on a busy host several."""

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
        ask = self._commands
        about = self._about_own()
        if not about.running:
            ask.run("rabbitmqctl", "start_app", deadline_s=START_S)
            about = self._about_own()
        cluster, holds = ask.json("cluster_status"), json.loads(ask.run("rabbitmqctl", "export_definitions", "-"))
        self._known = Facts(
            node=about.node,
            version=about.version,
            plugins=about.plugins,
            cluster=tuple(sorted(str(node) for node in cluster["disk_nodes"] + cluster["ram_nodes"])),
            running=tuple(sorted(str(node) for node in cluster["running_nodes"])),
            holds=held(
                [str(one["name"]) for one in holds["vhosts"]],
                [(str(one["vhost"]), str(one["name"])) for one in holds["queues"]],
            ),
        )
        return self._known

    def _about_own(self) -> About:
        return about(self._commands.evaluate(ASK))

    def cookie(self) -> str:
        """The Erlang cookie of this host's broker: whoever has it can do anything with it."""
        return read_text(self.place.cookie).strip()

    def check(self, peers: Sequence[BrokerNode], cookie: str, *, skew_s: float = SKEW_S) -> Facts:
        """Raises `Refused`, in one plain sentence for each thing that differs, where this broker cannot be one of
        `peers`, whose cookie that is. Changes nothing, here or there."""
        own = self._known or self.facts()
        problems = objections(own, peers)
        with_block(read_text(self.place.etc_hosts), peers, own.node)
        with guest(self.place, cookie, peers) as others:
            for peer in peers:
                if peer.node == own.node:
                    continue
                began_s = time.time()
                there = self._asked(others, peer)
                off_s = max(began_s - there.clock_s, there.clock_s - time.time())
                if off_s > skew_s:
                    problems.append(f"the clocks of this host and of {peer.node}'s differ by {off_s:.1f} s at least")
                if not there.running:
                    raise BrokerAway(f"{peer.node} is stopped: a broker joins only while all the others run")
                now = peer.model_copy(update={"version": there.version, "plugins": there.plugins})
                problems += [one for one in objections(own, [now]) if peer.node in one]
        if problems:
            raise Refused("; ".join(dict.fromkeys(problems)))
        return own

    def _asked(self, others: Commands, peer: BrokerNode) -> About:
        try:
            return about(others.evaluate(ASK, node=peer.node))
        except CookieRefused:
            raise Refused(why_refused(peer, self.place.configuration / "bellwether")) from None

    def replicate_metadata(self) -> None:
        """Has RabbitMQ keep what it knows of users, exchanges and queues in Khepri, which has a majority decide. Its
        older way, Mnesia, forgets a part of it when brokers lose sight of each other for a moment, and says nothing.
        Those that join take it over. Nothing before 4.0, where it was not fit for use."""
        own = self._known or self.facts()
        if series(own.version) >= (4, 0):
            self._commands.run("rabbitmqctl", "enable_feature_flag", "--opt-in", "khepri_db")

    # ── joined ──

    def join(self, peers: Sequence[BrokerNode], cookie: str, own_address: str) -> None:
        """Makes this host's broker one of `peers`, whose cookie that is. What it held is deleted: `check` first.

        Waits until the hosts of the others know this one: they do once the state has it.
        """
        own = self._known or self.facts()
        others = [peer for peer in peers if peer.node != own.node]
        self.know(peers, own.node)
        if not set(own.others) & {peer.node for peer in others}:
            with guest(self.place, cookie, others) as there:
                self._wait_known(there, others, own.node.partition("@")[2], own_address)
                self._be_forgotten(there, others, own.node)
            self.use_cookie(cookie)
            self._known = None
            self._say(f"joining the broker of this host to {others[0].node}")
            for step in (("stop_app",), ("reset",), ("join_cluster", others[0].node)):
                self._commands.run("rabbitmqctl", *step)
            self._commands.run("rabbitmqctl", "start_app", deadline_s=START_S)
        else:
            self.use_cookie(cookie)

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
        if not _COOKIE.fullmatch(cookie):
            raise Refused("this is no Erlang cookie: 16 to 255 letters, digits, or + / = _ - are")
        if self.cookie() == cookie:
            self._must_let_in(self._commands)
            return
        try:
            self._commands.evaluate_secretly(f"erlang:set_cookie('{cookie}').")
        except CookieRefused:  # interrupted between this and the next step
            with guest(self.place, cookie, ()) as other:
                self._must_let_in(other)
        self._write_cookie(cookie)
        self._say("the broker has another Erlang cookie")

    def _write_cookie(self, cookie: str) -> None:
        owner = pwd.getpwnam(self.place.user)
        with tempfile.TemporaryDirectory(prefix="bellwether-broker-") as directory:
            # RabbitMQ's user owns the directory that the cookie is in: root does not write there, that user does.
            new = Path(directory) / "cookie"
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
                file.write(cookie)
            Path(directory).chmod(0o711)
            target = self.place.cookie
            staged = target.with_name(".erlang.cookie.new")
            as_user(self.place.user, ["/bin/cp", "--remove-destination", "--preserve=mode", str(new), str(staged)])
            as_user(self.place.user, ["/bin/sync", str(staged)])
            as_user(self.place.user, ["/bin/mv", "-fT", str(staged), str(target)])

    def _must_let_in(self, commands: Commands) -> None:
        try:
            commands.evaluate("ok.")
        except CookieRefused:
            raise CookieRefused(
                "the RabbitMQ on this host uses a cookie that is neither its file's nor the cluster's, or an old "
                "certificate: `systemctl kill -s KILL rabbitmq-server`, and it starts again with what is there"
            ) from None

    def _wait_known(self, there: Commands, others: Sequence[BrokerNode], host: str, address: str) -> None:
        family = "inet6" if ":" in address else "inet"
        ask = f'case inet:getaddr("{host}", {family}) of {{ok, A}} -> inet:ntoa(A); _ -> "nothing" end.'
        for peer in others:
            heard = "nothing"
            for _ in wait_until_s(KNOWN_S):
                heard = there.evaluate(ask, node=peer.node).strip('"')
                if heard == address:
                    break
            else:
                raise BrokerAway(
                    f"the host of {peer.node} does not know yet that {host} is {address} (it knows {heard}): "
                    "is bellwether-broker.path enabled there?"
                )

    def _be_forgotten(self, there: Commands, others: Sequence[BrokerNode], own: str) -> None:
        """By those who still count this broker among theirs although it was emptied meanwhile."""
        members = there.json("cluster_status", node=others[0].node)["disk_nodes"]
        if own in members:
            there.run("rabbitmqctl", "forget_cluster_node", own, node=others[0].node)

    def ensure_replica(self, stream: str, vhost: str = VHOST) -> None:
        """Has this broker hold a copy of the stream, and waits until it is in touch with the others', and has a say in
        who leads it: without that the loss of another one would leave too few who do."""
        own, told = self._about_own().node, False
        why = f"the copy of {stream} on {own} has not begun within {REPLICA_S:.0f} s"
        for _ in wait_until_s(REPLICA_S):
            try:
                members, online = self._replicas(stream, vhost)
                if own in members and own in online and self._commands.evaluate(_HAS_A_SAY) == "true":
                    return
                if own not in members:
                    if not told:
                        self._say(f"copying the log ({stream}) to this host's broker")
                        told = True
                    self._commands.run("rabbitmq-streams", "add_replica", "--vhost", vhost, stream, own)
            except (BrokerAway, CommandFailed) as error:
                # Brokers may be electing, or too busy to answer in time. Asked again they say what it is.
                why = error.detail
        raise BrokerAway(why)

    def _replicas(self, stream: str, vhost: str) -> tuple[list[str], list[str]]:
        """Brokers that have the stream, and those of them where it is running. Raises `Refused` where there is none."""
        for queue in self._commands.json("list_queues", "-p", vhost, "name", "type", "members", "online"):
            if queue["name"] == stream and queue["type"] == "stream":
                return [str(one) for one in queue["members"]], [str(one) for one in queue["online"]]
        raise Refused(f"the brokers have no stream {stream} in virtual host {vhost}")

    # ── kept as wanted ──

    def mend(self) -> None:
        """Starts a broker anew that runs and has lost its metadata store, as after its disk was full: it lets nobody
        in, and does not come round by itself."""
        try:
            ended = self._about_own().running and self._commands.evaluate(_STORE_ENDED) == "true"
        except BrokerAway:
            return  # what comes next says so
        if ended:
            self._say("RabbitMQ has lost its metadata store, and lets nobody in: starting it anew")
            service("restart")

    def expected_node(self) -> str:
        """What this host's broker is called: after the host."""
        return f"rabbit@{socket.gethostname().partition('.')[0]}"

    def seen(self) -> Seen:
        """Raises `BrokerAway` where the broker is not running, or has stopped because it sees no majority."""
        if not self._about_own().running:
            raise BrokerAway("the RabbitMQ on this host starts, or waits for others of its cluster")
        cluster = self._commands.json("cluster_status", deadline_s=SEEN_S)
        columns = ("name", "type", "members", "online")
        queues = self._commands.json("list_queues", "-p", VHOST, *columns, deadline_s=SEEN_S)
        own = self.expected_node()
        return Seen(
            own=own,
            cluster=frozenset(str(node) for node in cluster["disk_nodes"] + cluster["ram_nodes"]),
            running=frozenset(str(node) for node in cluster["running_nodes"]),
            replicas={
                str(one["name"]): frozenset(str(node) for node in one["members"])
                for one in queues
                if one["type"] == "stream"
            },
            empty=not queues,
            asleep=frozenset(
                str(one["name"])
                for one in queues
                if one["type"] == "stream" and own in one["members"] and own not in one["online"]
            ),
        )

    def wake_replica(self, stream: str, vhost: str = VHOST, *, alone: bool) -> None:
        """Has RabbitMQ start a stream anew whose copy here does not run, unless it starts by itself meanwhile. A broker
        that was killed may come back without it, and then goes on without it for ever (seen with 4.0.5). One that is
        `alone` is started anew itself where that does not help: without the log it is of no use to anybody."""
        if self._runs(stream, vhost, WAKES_S):
            return
        self._say(f"the copy of {stream} on this broker does not run: starting the stream anew")
        try:
            self._commands.run("rabbitmq-streams", "restart_stream", "--vhost", vhost, stream)
            if self._runs(stream, vhost, RESTARTED_S):
                return
            why = f"the copy of {stream} on this broker has not begun within {RESTARTED_S:.0f} s"
        except (BrokerAway, CommandFailed) as error:
            why = error.detail
        if alone:
            self._say(f"{why}: starting RabbitMQ anew")
            service("restart")
        raise BrokerAway(why)

    def _runs(self, stream: str, vhost: str, within_s: float) -> bool:
        own = self.expected_node()
        return any(own in self._replicas(stream, vhost)[1] for _ in wait_until_s(within_s))

    def cut_off(self, node: str) -> None:
        """Ends this broker's connection with another one, which has the old cookie and cannot come back."""
        self._say(f"ending the connection with {node}")
        self._commands.evaluate(f"erlang:disconnect_node('{node}').")

    def forget(self, node: str) -> None:
        """Another host may be quicker."""
        self._say(f"forgetting {node}")
        try:
            self._commands.run("rabbitmqctl", "forget_cluster_node", node, deadline_s=START_S)
        except CommandFailed as error:
            if "not_a_cluster_node" not in error.output:
                raise

    def drop_replica(self, stream: str, node: str, vhost: str = VHOST) -> None:
        self._say(f"deleting the copy of {stream} that was on {node}")
        try:
            self._commands.run("rabbitmq-streams", "delete_replica", "--vhost", vhost, stream, node)
        except CommandFailed:
            if node in self._replicas(stream, vhost)[0]:  # else another host was quicker
                raise

    # ── taken out ──

    def leave(self) -> None:
        """Takes this host's broker out of its cluster, empties it, and gives it a cookie of its own. One that cannot
        start any more, as its cluster has forgotten it, is emptied where it lies. Nothing, where that was done."""
        own = self.expected_node()
        try:
            facts = self.facts() if self._about_own().running else None
            if facts is None or facts.others or facts.holds:
                self._leave_orderly() if facts is not None else self._wipe(own)
        except BrokerAway:
            self._wipe(own)
        self.know((), own)

    def _leave_orderly(self) -> None:
        self._say("taking the broker of this host out of its cluster, and emptying it")
        self._commands.run("rabbitmqctl", "stop_app")
        try:
            self._commands.run("rabbitmqctl", "reset", deadline_s=RESET_S)
        except (BrokerAway, CommandFailed):  # the others are gone, or have another cookie already
            self._wipe(self.expected_node())
            return
        self.use_cookie(secrets.token_urlsafe(32))
        self._commands.run("rabbitmqctl", "start_app", deadline_s=START_S)

    def _wipe(self, own: str) -> None:
        self._say("emptying the broker of this host where its data lies, without the others")
        service("stop")
        for path in sorted(self.place.data.glob(f"{own}*")):
            as_user(self.place.user, ["/bin/rm", "-rf", "--", str(path)])
        self._write_cookie(secrets.token_urlsafe(32))
        service("start")
