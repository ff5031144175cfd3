"""The roster: what was heard goes in with its time, what is to be said or written down comes out."""

from dataclasses import dataclass, field

import pytest

from provider.core.commands import RotateCredential, SwitchCredential
from provider.core.documents import AgentStatus, Document, InstanceStatus, WishStatus
from provider.core.entries import Change
from provider.core.state import Accepted, State
from provider.fleet import beats
from provider.fleet.desired import desired_for
from provider.fleet.follow import advised, agents_without_trust, to_rotate
from provider.fleet.instructions import Change as Rotation
from provider.fleet.instructions import (
    Instruction,
    Record,
    Register,
    SendAdvice,
    SendBeat,
    SendDesired,
    SendInquire,
    SendPulse,
    Warn,
)
from provider.fleet.roster import OFFLINE_AFTER_S, RESEND_S, Roster
from shared import messages as m
from tests.support.history import accept_claim, accept_entry, commit_of, genesis

ONLINE = AgentStatus(state="online", version="1", endpoint="amqps://b", epoch=1)
UP = InstanceStatus(state="up", version="11", role="primary", read_only=False)


def change(kind: str, id_: str, spec: dict[str, object], status: object = None, *, wish: bool = True) -> Change:
    dumped = status.model_dump(mode="json", exclude_none=True) if status is not None else {}  # type: ignore[attr-defined]
    return Change.model_validate({"kind": kind, "id": id_, "spec": spec, "status": dumped, "wish": wish})


def agent(id_: str, status: AgentStatus | None = None) -> Change:
    secrets: dict[str, object] = {"token_sha256": "x", "broker_password_hash": "y"}
    return change("agent", id_, secrets, status or AgentStatus(), wish=False)


def instance(id_: str, of: str, status: InstanceStatus | None = None, *, wish: bool = True) -> Change:
    return change("instance", id_, {"agent": of, "engine": "mariadb"}, status or InstanceStatus(), wish=wish)


def database(id_: str, phase: str = "pending", message: str | None = None) -> Change:
    return change("database", id_, {}, WishStatus.model_validate({"phase": phase, "message": message}))


def observed(id_: str = "db1", **more: object) -> m.ObservedInstance:
    seen = {"id": id_, "engine": "mariadb", "state": "up", "version": "11", "role": "primary", "read_only": False}
    return m.ObservedInstance.model_validate(seen | more)


def hello(*instances: m.ObservedInstance, epoch: int = 1, version: str = "1") -> m.Hello:
    return m.Hello(version=version, session="s", epoch=epoch, revision=0, endpoint="amqps://b", instances=instances)


def pulse(*, epoch: int = 1, revision: int = 0) -> m.Pulse:
    return m.Pulse(version="1", session="s", epoch=epoch, revision=revision, endpoint="amqps://b")


def node_pulse(started: str = "then") -> m.NodePulse:
    return m.NodePulse(role="standby", state="active", version="1", revision=1, digest="d", started=started)


@dataclass
class Fleet:
    """A roster, and the log that it lives with: what it asks to be recorded is committed, unless told otherwise."""

    node: str = "p1"
    commits: bool = True
    now_s: float = 1000.0
    state: State = field(default_factory=genesis)
    recorded: list[Record] = field(default_factory=list)
    beats: list[tuple[float, SendBeat]] = field(default_factory=list)
    """When, and which: they come by the clock, whatever else happens."""

    def __post_init__(self) -> None:
        self.roster = Roster(self.node, self.state)
        self.link_up()

    def link_up(self) -> list[Instruction]:
        return self._done(self.roster.link_up(self.now_s))

    def due(self, seconds: float) -> list[Instruction]:
        self.now_s += seconds
        return self._done(self.roster.due(self.now_s))

    def commit(self, *changes: Change) -> list[Instruction]:
        return self._applied(accept_entry(self.state, commit_of(*changes)))

    def claim(self, node: str) -> list[Instruction]:
        return self._applied(accept_claim(self.state, node))

    def hear(self, sender: str, body: m.Body) -> list[Instruction]:
        return self._done(self.roster.heard(sender, body, self.state.epoch, 0, self.now_s))

    def wait(self, seconds: float) -> list[Instruction]:
        """Time passes; the roster looks once, at its end."""
        self.now_s += seconds
        return self._done(self.roster.tick(self.now_s))

    def _applied(self, accepted: Accepted) -> list[Instruction]:
        self.state = accepted.state
        return self._done(self.roster.applied(self.state, [accepted], self.now_s))

    def _done(self, instructions: list[Instruction]) -> list[Instruction]:
        """Carries out what is to be recorded; the rest is what the test looks at."""
        out: list[Instruction] = []
        for instruction in instructions:
            if isinstance(instruction, Record) and self.commits:
                self.recorded.append(instruction)
                out += self.commit(*(self._change(u.kind, u.id, u.status) for u in instruction.updates))
                out += self._done(self.roster.recorded(instruction.updates))
            elif isinstance(instruction, SendBeat):
                self.beats.append((self.now_s, instruction))
            else:
                out.append(instruction)
        return out

    def _change(self, kind: str, id_: str, status: object) -> Change:
        document = self.get(kind, id_)
        if status is None:
            return Change(kind=document.kind, id=id_)
        return change(kind, id_, dict(document.spec), status, wish=False)

    def get(self, kind: str, id_: str) -> Document:
        found = self.state.get(kind, id_)  # type: ignore[arg-type]
        assert found is not None
        return found

    def status(self, kind: str, id_: str) -> dict[str, object]:
        return dict(self.get(kind, id_).status)


@pytest.fixture
def fleet() -> Fleet:
    """Primary p1, agent db1 with an instance of its own; both are there and known to be."""
    fleet = Fleet()
    fleet.commit(agent("db1"), instance("db1", "db1"))
    fleet.hear("db1", hello(observed()))
    fleet.wait(RESEND_S)
    fleet.recorded.clear()
    return fleet


# ── the beat ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def beat_times(fleet: Fleet, seconds: float) -> list[float]:
    """When agents are told within the next `seconds` that the primary is there, from now on."""
    since_s = fleet.now_s
    fleet.beats.clear()
    for _ in range(round(seconds / 0.1)):
        fleet.due(0.1)
    return [round(at_s - since_s, 1) for at_s, _ in fleet.beats]


def test_the_primary_beats_by_the_clock_and_a_standby_does_not(fleet: Fleet) -> None:
    fleet.wait(beats.INTERVAL_S)
    assert beat_times(fleet, 9.0) == [2.0, 4.0, 6.0, 8.0]
    fleet.claim("p2")
    assert beat_times(fleet, 9.0) == []


def test_a_new_primary_beats_after_its_advice(fleet: Fleet) -> None:
    fleet.claim("p2")
    assert SendAdvice("all") in fleet.claim("p1")
    assert beat_times(fleet, 5.0) == [2.0, 4.0]


def test_there_is_no_beat_without_a_connection_and_one_as_soon_as_there_is(fleet: Fleet) -> None:
    fleet.roster.link_down()
    assert beat_times(fleet, 5.0) == []
    fleet.link_up()
    assert beat_times(fleet, 1.0) == [0.1]


@pytest.mark.parametrize(("agents", "interval_s", "spread_s"), [(0, 2, 0), (1000, 2, 2), (10_000, 10, 20)])
def test_a_large_fleet_is_told_less_often_and_moves_more_slowly(
    agents: int, interval_s: float, spread_s: float
) -> None:
    assert (beats.interval_s(agents), beats.spread_s(agents)) == (interval_s, spread_s)


def test_the_beat_says_when_the_next_one_comes() -> None:
    fleet = Fleet()
    fleet.commit(*(agent(f"a{number}") for number in range(3000)))
    assert beat_times(fleet, 9.0) == [0.1, 3.1, 6.1]
    assert {beat.interval_s for _, beat in fleet.beats} == {3.0}


# ── a new primary and the wishes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def heirs() -> Fleet:
    """Standby p2, to which two agents have said hello."""
    fleet = Fleet(node="p2")
    fleet.commit(agent("db1"), instance("db1", "db1"), agent("db2"), instance("db2", "db2"))
    for name in ("db1", "db2"):
        fleet.hear(name, hello(observed(name)))
    return fleet


def wished(instructions: list[Instruction]) -> set[str]:
    return {one.to for one in instructions if isinstance(one, SendDesired)}


def test_wishes_wait_until_all_have_acknowledged_and_then_all_are_sent_them(heirs: Fleet) -> None:
    assert not wished(heirs.claim("p2"))
    assert not wished(heirs.hear("db1", m.Advised(epoch=2, primary="p2")) + heirs.due(0.2))
    assert wished(heirs.hear("db2", m.Advised(epoch=2, primary="p2")) + heirs.due(0.2)) == {"db1", "db2"}
    assert {update.id for record in heirs.recorded for update in record.updates} >= {"db1", "db2"}


def test_who_does_not_acknowledge_keeps_nobody_waiting_for_long(heirs: Fleet) -> None:
    heirs.claim("p2")
    heirs.hear("db1", m.Advised(epoch=2, primary="p2"))
    assert wished(heirs.due(2.0)) == {"db1", "db2"}


def test_new_wishes_and_hellos_do_not_wait_for_the_others(heirs: Fleet) -> None:
    heirs.claim("p2")
    assert wished(heirs.commit(database("db1/shop"))) == {"db1"}
    assert wished(heirs.hear("db2", hello(observed("db2")))) == {"db2"}


# ── coming and going ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_that_says_hello_is_sent_its_desired_state_and_recorded_as_online() -> None:
    fleet = Fleet()
    fleet.commit(agent("db1"), instance("db1", "db1"))
    assert fleet.hear("db1", hello(observed())) == [SendDesired("db1")]
    assert fleet.status("agent", "db1") == ONLINE.model_dump(exclude_none=True)
    assert fleet.status("instance", "db1") == UP.model_dump(exclude_none=True)


def test_an_idle_fleet_costs_the_log_nothing(fleet: Fleet) -> None:
    for _ in range(20):
        assert fleet.hear("db1", pulse()) == []
        assert fleet.wait(2.0) == []
    assert fleet.recorded == []


def test_who_falls_silent_is_offline_and_its_instances_unknown_until_it_speaks_again(fleet: Fleet) -> None:
    fleet.wait(OFFLINE_AFTER_S - 0.5)
    assert fleet.status("agent", "db1")["state"] == "online"
    fleet.wait(1.0)
    assert fleet.status("agent", "db1")["state"] == "offline"
    assert fleet.status("instance", "db1")["state"] == "unknown"
    assert "offline" in str(fleet.status("instance", "db1")["message"])
    assert fleet.status("instance", "db1")["version"] == "11", "the last that it said is kept"

    fleet.recorded.clear()
    fleet.wait(60.0)
    assert fleet.recorded == [], "once"
    fleet.hear("db1", pulse())
    assert fleet.status("agent", "db1")["state"] == "online"
    assert fleet.status("instance", "db1") == UP.model_dump(exclude_none=True)


def test_how_long_silence_is_allowed_is_a_setting(fleet: Fleet) -> None:
    fleet.commit(Change(kind="setting", id="agents.offline_after_s", spec={"value": 100}))
    fleet.wait(99.0)
    assert fleet.status("agent", "db1")["state"] == "online"
    fleet.wait(2.0)
    assert fleet.status("agent", "db1")["state"] == "offline"


def test_silence_says_nothing_while_we_ourselves_hear_nothing(fleet: Fleet) -> None:
    fleet.roster.link_down()
    fleet.wait(100.0)
    assert fleet.status("agent", "db1")["state"] == "online"
    assert fleet.link_up() == [SendAdvice("all"), SendInquire("all")]
    fleet.wait(OFFLINE_AFTER_S - 0.5)
    assert fleet.status("agent", "db1")["state"] == "online", "it has its time from now on"
    fleet.wait(1.0)
    assert fleet.status("agent", "db1")["state"] == "offline"


def test_one_that_was_heard_by_its_pulse_first_is_asked_for_the_rest() -> None:
    fleet = Fleet()
    fleet.commit(agent("db1", ONLINE))
    assert SendInquire("db1") in fleet.hear("db1", pulse())
    assert SendInquire("db1") not in fleet.hear("db1", pulse())


def test_strangers_and_those_who_were_removed_are_not_heard(fleet: Fleet) -> None:
    assert fleet.hear("nobody", hello(observed("x"))) == []
    assert "nobody" not in fleet.roster.view.agents
    fleet.commit(Change(kind="agent", id="db1"))
    assert "db1" not in fleet.roster.view.agents
    assert fleet.hear("db1", pulse()) == []
    assert fleet.wait(100.0) == []
    assert fleet.recorded == []


# ── who speaks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_standby_listens_and_says_nothing_until_it_leads() -> None:
    fleet = Fleet(node="p2")
    fleet.commit(agent("db1"), instance("db1", "db1"))
    assert fleet.hear("db1", hello(observed())) == []
    assert fleet.commit(database("db1/shop")) == []
    assert fleet.wait(1.0) == []
    assert fleet.recorded == []

    assert fleet.claim("p2") == [SendAdvice("all")], "it knows the fleet already"
    assert fleet.hear("db1", m.Advised(epoch=2, primary="p2")) == []
    assert fleet.due(0.1) == [SendDesired("db1")]
    assert fleet.status("agent", "db1")["state"] == "online"


def test_who_was_deposed_says_nothing_any_more(fleet: Fleet) -> None:
    assert fleet.claim("p2") == []
    assert fleet.commit(database("db1/shop")) == []
    assert fleet.hear("db1", hello(observed(state="down"))) == []
    assert fleet.wait(100.0) == []
    assert fleet.recorded == []


def test_advice_is_repeated_ever_more_slowly_until_it_is_followed(fleet: Fleet) -> None:
    fleet.claim("p2")
    assert SendAdvice("all") in fleet.claim("p1")
    told = 0
    for _ in range(60):
        told += SendAdvice("db1") in fleet.hear("db1", pulse(epoch=1)) + fleet.wait(1.0)
    assert 8 <= told <= 40
    fleet.hear("db1", m.Advised(epoch=3, primary="p1"))
    assert fleet.roster.view.agents["db1"].epoch == 3
    for _ in range(10):
        assert SendAdvice("db1") not in fleet.hear("db1", pulse(epoch=3)) + fleet.wait(1.0)
    assert fleet.status("agent", "db1")["epoch"] == 3


def test_nobody_is_told_twice_who_cannot_hear(fleet: Fleet) -> None:
    fleet.wait(OFFLINE_AFTER_S + 1)
    fleet.claim("p2")
    fleet.claim("p1")
    for _ in range(10):
        assert fleet.wait(1.0) == []
    said = fleet.hear("db1", hello(observed(), epoch=1))
    assert SendAdvice("db1") in said
    assert SendDesired("db1") in said


def test_all_are_advised_when_a_node_comes_or_goes(fleet: Fleet) -> None:
    assert fleet.commit(change("node", "p2", {"url": "https://x"})) == [SendAdvice("all")]
    assert fleet.commit(Change(kind="node", id="p2")) == [SendAdvice("all")]


def test_a_node_that_has_just_started_is_answered_once() -> None:
    fleet = Fleet()
    assert fleet.hear("p2", node_pulse("then")) == [SendPulse()]
    assert fleet.hear("p2", node_pulse("then")) == []
    assert fleet.hear("p2", node_pulse("now")) == [SendPulse()]
    assert fleet.hear("p1", node_pulse("then")) == [], "not ourselves"


# ── wishes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_burst_of_writes_becomes_a_few_messages_and_the_last_one_is_sent(fleet: Fleet) -> None:
    sent = [fleet.commit(database(f"db1/d{number}")) for number in range(50)]
    assert sum(len(one) for one in sent) <= 1
    assert fleet.due(RESEND_S) == [SendDesired("db1")]
    assert fleet.due(10) == []


def test_only_the_agent_concerned_is_told(fleet: Fleet) -> None:
    fleet.commit(agent("db2"), instance("db2", "db2"))
    fleet.hear("db2", hello(observed("db2")))
    fleet.wait(1.0)
    assert fleet.commit(database("db2/shop")) == [SendDesired("db2")]
    fleet.wait(1.0)
    assert fleet.commit(Change(kind="database", id="db2/shop")) == [SendDesired("db2")]
    assert fleet.commit(Change(kind="setting", id="user.x", spec={"value": 1})) == []


def report(*results: m.Result) -> m.Report:
    return m.Report(revision=1, instances=(observed(database_results=results),))


def test_a_result_counts_for_the_wish_that_it_speaks_of(fleet: Fleet) -> None:
    fleet.commit(database("db1/shop"))
    old = fleet.get("database", "db1/shop").wish
    fleet.commit(change("database", "db1/shop", {"charset": "latin1"}, WishStatus()))
    fleet.hear("db1", report(m.Result(name="shop", version=old, phase="ready")))
    assert fleet.status("database", "db1/shop") == {"phase": "pending"}, "that was the wish before"
    new = fleet.get("database", "db1/shop").wish
    fleet.hear("db1", report(m.Result(name="shop", version=new, phase="failed", message="no such charset")))
    assert fleet.status("database", "db1/shop") == {"phase": "failed", "message": "no such charset"}
    assert fleet.get("database", "db1/shop").wish == new, "a status is no wish"
    fleet.recorded.clear()
    fleet.hear("db1", report(m.Result(name="shop", version=new, phase="failed", message="no such charset")))
    fleet.hear("db1", report(m.Result(name="other", version=new, phase="ready")))
    assert fleet.recorded == []


def test_what_is_dropped_goes_only_where_that_was_asked(fleet: Fleet) -> None:
    fleet.commit(database("db1/shop", "ready"))
    wish = fleet.get("database", "db1/shop").wish
    fleet.hear("db1", report(m.Result(name="shop", version=wish, phase="dropped")))
    assert fleet.status("database", "db1/shop") == {"phase": "ready"}

    fleet.commit(database("db1/shop", "dropping"))
    wish = fleet.get("database", "db1/shop").wish
    fleet.hear("db1", report(m.Result(name="shop", version=wish, phase="failed", message="in use")))
    assert fleet.status("database", "db1/shop") == {"phase": "dropping", "message": "in use"}
    fleet.hear("db1", report(m.Result(name="shop", version=wish, phase="dropped")))
    assert fleet.state.get("database", "db1/shop") is None


def test_what_could_not_be_recorded_is_tried_again_later_and_not_at_once(fleet: Fleet) -> None:
    fleet.commits = False
    down = fleet.hear("db1", hello(observed(state="down", message="gone")))
    (record,) = [one for one in down if isinstance(one, Record)]
    assert fleet.hear("db1", pulse(revision=1)) == [], "it is on its way"
    assert fleet.roster.recorded(record.updates, ok=False) == []
    fleet.commits = True
    fleet.wait(1.0)
    assert fleet.status("instance", "db1")["state"] == "down"


# ── instances ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_instance_that_is_not_known_is_made_known_once(fleet: Fleet) -> None:
    said = fleet.hear("db1", hello(observed(), observed("db1b", port=3307)))
    (register,) = [one for one in said if isinstance(one, Register)]
    assert (register.command.id, register.command.spec.agent, register.command.spec.port) == ("db1b", "db1", 3307)
    again = fleet.hear("db1", hello(observed(), observed("db1b", port=3307)))
    assert not [one for one in again if isinstance(one, Register)], "it is on its way"
    fleet.roster.registered("db1b")
    refused = fleet.hear("db1", hello(observed(), observed("db1b", port=3307)))
    assert [one for one in refused if isinstance(one, Register)], "the level decides, not the edge"


def test_an_instance_of_another_agent_and_one_of_no_engine_are_not_believed(fleet: Fleet) -> None:
    fleet.commit(agent("db2"), instance("db2", "db2"))
    said = fleet.hear("db1", hello(observed(), observed("db2", state="down"), observed("x", engine="oracle")))
    assert not [one for one in said if isinstance(one, Register)]
    assert fleet.status("instance", "db2") == InstanceStatus().model_dump(exclude_none=True)


def test_the_desired_state_is_all_of_it_with_passwords_opened(fleet: Fleet) -> None:
    fleet.commit(agent("db2"), instance("db1b", "db1"), instance("db2", "db2"))
    fleet.commit(
        database("db1/shop"),
        database("db1/old", "dropping"),
        database("db2/other"),
        change("account", "db1b/ann", {"host": "%", "grants": [], "password": "sealed"}, WishStatus()),
    )
    desired = desired_for(fleet.state, "db1", lambda sealed, context: f"{context} opened {sealed}")
    assert desired.revision == fleet.state.revision
    one, two = desired.instances
    assert [(d.name, d.drop) for d in one.databases] == [("old", True), ("shop", False)]
    assert (two.id, two.databases, two.accounts[0].password) == ("db1b", (), "db1b/ann opened sealed")
    assert desired_for(fleet.state, "nobody", lambda *_: "").instances == ()


# ── authorities, passwords, doubles ──────────────────────────────────────────────────────────────────────────────────

OLD_TRUST, NEW_TRUST = "0" * 16, "f" * 16
OFFER = m.Offer(number=1, broker_password_hash="A" * 48)


def saying(**more: object) -> m.Pulse:
    return pulse().model_copy(update=more)


def test_new_authorities_are_told_to_all_and_again_to_who_does_not_trust_them_yet(fleet: Fleet) -> None:
    fleet.hear("db1", saying(trust=OLD_TRUST))
    assert fleet.roster.trusts(NEW_TRUST, fleet.now_s) == [SendAdvice(m.TO_ALL)]
    assert fleet.roster.trusts(NEW_TRUST, fleet.now_s) == []
    assert fleet.wait(1.0) == [SendAdvice("db1")]
    document = fleet.get("agent", "db1")
    assert not advised(document, fleet.state, fleet.roster.view)
    assert agents_without_trust(fleet.state, fleet.roster.view, NEW_TRUST) == ["db1"]
    fleet.hear("db1", m.Advised(epoch=1, primary="p1", trust=NEW_TRUST))
    assert fleet.wait(5.0) == []
    assert advised(document, fleet.state, fleet.roster.view)
    assert agents_without_trust(fleet.state, fleet.roster.view, NEW_TRUST) == []
    assert fleet.status("agent", "db1")["trust"] == NEW_TRUST, "the next primary knows it too"


def test_one_that_says_nothing_of_trust_is_not_told_for_ever_but_known_to_be_missing(fleet: Fleet) -> None:
    fleet.roster.trusts(NEW_TRUST, fleet.now_s)
    assert fleet.wait(1.0) == []
    assert agents_without_trust(fleet.state, fleet.roster.view, NEW_TRUST) == ["db1"]


def test_a_password_is_asked_for_taken_and_told_of_until_it_is_used(fleet: Fleet) -> None:
    document = fleet.get("agent", "db1")
    spec = dict(document.spec)
    asked = change("agent", "db1", spec | {"wanted_credential": 1}, AgentStatus.model_validate(document.status))
    assert fleet.commit(asked) == [SendAdvice("db1")]
    fleet.wait(1.0)
    assert fleet.hear("db1", saying(offer=OFFER))[-1] == Rotation(
        SwitchCredential("db1", 1, OFFER.broker_password_hash)
    )
    assert not [one for one in fleet.hear("db1", saying(offer=OFFER, revision=1)) if isinstance(one, Rotation)]
    taken = spec | {"credential": 1, "broker_password_hash": OFFER.broker_password_hash}
    fleet.commit(change("agent", "db1", taken, AgentStatus.model_validate(fleet.status("agent", "db1"))))
    fleet.roster.changed("db1")
    assert SendAdvice("db1") in fleet.wait(1.0)
    assert not advised(fleet.get("agent", "db1"), fleet.state, fleet.roster.view)
    fleet.hear("db1", saying(credential=1))
    assert fleet.wait(5.0) == []
    assert advised(fleet.get("agent", "db1"), fleet.state, fleet.roster.view)


def test_an_offer_that_nobody_asked_for_changes_nothing(fleet: Fleet) -> None:
    assert not [one for one in fleet.hear("db1", saying(offer=OFFER)) if isinstance(one, Rotation)]


def test_old_passwords_are_changed_and_not_all_in_one_hour(fleet: Fleet) -> None:
    fleet.commit(*(agent(f"a{number}") for number in range(100)))
    documents = [fleet.get("agent", f"a{number}") for number in range(100)]
    day_ms = 86_400_000

    def due(days: float) -> int:
        return sum(to_rotate(one, fleet.state, int(one.created_at + days * day_ms)) for one in documents)

    assert due(67) == 0
    assert 30 < due(79) < 70
    assert due(90) == 100
    fleet.commit(change("setting", "agents.password_days", {"value": 0}))
    assert due(10_000) == 0


def test_a_few_of_them_at_a_time() -> None:
    fleet = Fleet()
    fleet.commit(
        *(agent(f"a{number}") for number in range(50)), change("setting", "agents.password_days", {"value": 1})
    )
    out: list[Instruction] = []
    for number in range(50):
        name = f"a{number}"
        out += fleet.roster.heard(name, hello(), 1, fleet.get("agent", name).created_at + 2 * 86_400_000, fleet.now_s)
    begun = [one for one in out if isinstance(one, Rotation)]
    assert len(begun) == 10
    assert all(isinstance(one.command, RotateCredential) for one in begun)
    assert len([one for one in fleet.wait(1.0) if isinstance(one, Rotation)]) == 10


def test_two_programs_under_one_name_are_noticed_and_a_restart_is_not_taken_for_one(fleet: Fleet) -> None:
    fleet.hear("db1", saying(session="a"))
    assert Warn("db1") not in fleet.hear("db1", saying(session="b"))
    assert Warn("db1") not in fleet.hear("db1", saying(session="c"))
    assert Warn("db1") in fleet.hear("db1", saying(session="b"))
    assert Warn("db1") not in fleet.hear("db1", saying(session="c")), "said once"
    assert fleet.roster.view.agents["db1"].duplicate_until_s > fleet.now_s
