"""What the agent decides about messages: which it obeys, what it stores first, what it answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.brokerfile import BrokerSettings
from agent.session import (
    Connect,
    Fulfil,
    Heard,
    Instruction,
    MakePassword,
    Note,
    Send,
    Session,
    Store,
    UsePassword,
    shortened,
)
from agent.settings import AgentFiles
from shared.messages import (
    Advice,
    Advised,
    Beat,
    Body,
    Credential,
    Desired,
    DesiredInstance,
    Hello,
    Inquire,
    ObservedDatabase,
    ObservedInstance,
    Offer,
    Pulse,
    Report,
    Result,
    encode,
)
from shared.tls import trust_of

CA = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()
FILES = AgentFiles(Path("/etc/bellwether/agent.toml"))
HERE = "amqps://here:5671"
THERE = "amqps://there:5671"
UP = ObservedInstance(id="i1", engine="mariadb", state="up")


def broker(**more: Any) -> BrokerSettings:
    content: dict[str, Any] = {
        "epoch": 3,
        "primary": "p1",
        "endpoints": (HERE,),
        "providers": (),
        "vhost": "bellwether",
        "ca": CA,
        "ca_file": FILES.ca,
    }
    return BrokerSettings(**(content | more))


def new_session(*instances: str) -> Session:
    return Session(version="1", session="s", instances=instances or ("i1",), broker=broker(), files=FILES)


def connected() -> Session:
    session = new_session()
    session.seen(UP, 0)
    session.connected(HERE)
    return session


def advice(**more: Any) -> Advice:
    content = {"epoch": 4, "primary": "p2", "endpoints": (HERE,), "providers": (), "vhost": "bellwether", "ca": CA}
    return Advice.model_validate(content | more)


def tell(session: Session, body: Body, *, epoch: int = 3, key: str = "db1") -> list[Instruction]:
    return session.message(encode(body, sender="p2", epoch=epoch), key=key, user="provider")


def sent(instructions: list[Instruction]) -> list[Body]:
    return [one.body for one in instructions if isinstance(one, Send)]


def kinds(instructions: list[Instruction]) -> list[type]:
    return [type(one) for one in instructions if not isinstance(one, Note | Heard)]


# ── hello and reports ────────────────────────────────────────────────────────────────────────────────────────────────


def test_hello_waits_until_every_instance_was_looked_at() -> None:
    session = new_session("i1", "i2")
    assert sent(session.connected(HERE)) == []
    assert session.pulse() == []
    assert sent(session.seen(UP, 0)) == []
    (hello,) = sent(session.seen(UP.model_copy(update={"id": "i2"}), 0))
    assert isinstance(hello, Hello)
    assert [one.id for one in hello.instances] == ["i1", "i2"]


def test_without_a_connection_nothing_is_said() -> None:
    session = connected()
    session.disconnected()
    assert sent(session.seen(UP, 1)) == []
    assert session.pulse() == []
    assert session.disconnected() == []


def test_a_report_claims_no_more_than_the_slowest_instance_has_reached() -> None:
    session = new_session("i1", "i2")
    session.connected(HERE)
    session.seen(UP, 5)
    session.seen(UP.model_copy(update={"id": "i2"}), 4)
    (report,) = sent(session.seen(UP, 6))
    assert isinstance(report, Report)
    assert report.revision == 4


def test_all_who_are_asked_at_once_do_not_answer_at_once() -> None:
    (to_all,) = tell(connected(), Inquire(), epoch=0, key="all")
    (to_one,) = tell(connected(), Inquire(), epoch=0)
    assert isinstance(to_all, Send)
    assert isinstance(to_one, Send)
    assert (to_all.staggered, to_one.staggered) == (True, False)


# ── epochs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_advice_is_stored_before_it_is_acknowledged() -> None:
    session = connected()
    told = tell(session, advice(), epoch=4)
    assert kinds(told) == [Store, Send]
    assert sent(told) == [Advised(epoch=4, primary="p2", trust=trust_of(CA))]


def test_advice_that_could_not_be_stored_is_stored_when_it_comes_again() -> None:
    session = connected()
    tell(session, advice(), epoch=4)
    assert kinds(tell(session, advice(), epoch=4)) == [Store, Send]
    session.stored(session.broker)
    assert kinds(tell(session, advice(), epoch=4)) == [Send]


def carry_out(session: Session, told: list[Instruction], *, full: bool) -> list[Instruction]:
    """As the daemon does: in order, up to a `Store` that fails because the disk is `full`. What was done."""
    done: list[Instruction] = []
    for one in told:
        if isinstance(one, Store):
            if full:
                return done
            session.stored(one.settings)
        done.append(one)
    return done


def test_wishes_wait_until_the_number_of_their_epoch_is_stored() -> None:
    session = connected()
    carry_out(session, tell(session, advice(endpoints=(THERE,)), epoch=4), full=True)
    wish = Desired(revision=9, instances=())
    assert kinds(carry_out(session, tell(session, wish, epoch=4), full=True)) == []
    assert kinds(tell(session, Desired(revision=9, instances=()), epoch=3)) == []  # what it has seen binds it already
    (pulse,) = sent(session.pulse())
    assert isinstance(pulse, Pulse)
    assert pulse.epoch == 3  # so its primary goes on advising it
    done = carry_out(session, tell(session, advice(endpoints=(THERE,)), epoch=4), full=False)
    assert kinds(done) == [Store, Connect, Fulfil, Send]
    assert kinds(carry_out(session, tell(session, advice(endpoints=(THERE,)), epoch=4), full=False)) == [Send]


def test_a_file_that_is_only_touched_takes_nothing_back() -> None:
    session = connected()
    carry_out(session, tell(session, advice(), epoch=4), full=True)
    assert session.edited(broker()) == []
    assert kinds(tell(session, Desired(revision=1, instances=()), epoch=3)) == []
    # A person changes something else in it, or the authority's file was written before the disk was full.
    done = carry_out(session, session.edited(broker(endpoints=(THERE,))), full=False)
    assert kinds(done) == [Store, Connect, Send]
    assert (session.broker.epoch, session.broker.primary, session.broker.endpoints) == (4, "p2", (THERE,))


@pytest.mark.parametrize("body", [advice(epoch=2), Desired(revision=9, instances=())])
def test_an_older_epoch_is_not_obeyed(body: Body) -> None:
    session = connected()
    assert kinds(tell(session, body, epoch=2)) == []
    assert session.skipped == {"stale_epoch": 1}
    assert session.revision == 0


def test_wishes_of_a_newer_epoch_store_its_number_first() -> None:
    session = connected()
    told = tell(session, Desired(revision=9, instances=()), epoch=5)
    assert kinds(told) == [Store, Fulfil]
    assert (session.broker.epoch, session.broker.primary) == (5, "p2")
    assert kinds(tell(session, Desired(revision=10, instances=()), epoch=4)) == []


def test_older_wishes_are_ignored_within_an_epoch_and_taken_in_a_newer_one() -> None:
    session = connected()
    tell(session, Desired(revision=9, instances=()))
    assert kinds(tell(session, Desired(revision=8, instances=()))) == []
    assert kinds(tell(session, Desired(revision=9, instances=()))) == [Fulfil]
    # A log begun anew from a survivor's state has fewer revisions.
    assert Fulfil(2, {}) in tell(session, Desired(revision=2, instances=()), epoch=4)


def test_wishes_for_instances_that_are_not_ours_reach_nobody() -> None:
    session = connected()
    wishes = (DesiredInstance(id="i1"), DesiredInstance(id="stranger"))
    told = tell(session, Desired(revision=1, instances=wishes))
    assert Fulfil(1, {"i1": wishes[0]}) in told
    assert session.skipped == {"unknown_instance": 1}


# ── twice, and by whom ───────────────────────────────────────────────────────────────────────────────────────────────

BEAT = Beat(interval_s=2.0)


@pytest.mark.parametrize("body", [advice(), Desired(revision=1, instances=()), Inquire()])
def test_what_comes_through_both_connections_of_a_move_is_acted_on_once(body: Body) -> None:
    session, data = connected(), encode(body, sender="p2", epoch=4)
    once = session.message(data, key="db1", user="provider")
    assert kinds(once)
    again = session.message(data, key="db1", user="provider")
    assert again == [Heard(None)]
    assert kinds(session.message(encode(body, sender="p2", epoch=4), key="db1", user="provider"))  # said again


def test_a_beat_is_a_word_of_the_primary_and_nothing_else() -> None:
    session = connected()
    assert tell(session, BEAT, epoch=3) == [Heard(BEAT)]
    assert tell(session, BEAT, epoch=4) == [Heard(BEAT)]  # a new one: its advice follows
    assert session.broker.epoch == 3
    assert not session.skipped


@pytest.mark.parametrize("body", [BEAT, advice(epoch=2), Desired(revision=9, instances=()), Inquire()])
def test_a_deposed_primary_is_no_sign_of_the_primary(body: Body) -> None:
    assert not [one for one in tell(connected(), body, epoch=2) if isinstance(one, Heard)]


# ── moving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def moves(instructions: list[Instruction]) -> list[Connect]:
    return [one for one in instructions if isinstance(one, Connect)]


def test_a_new_primary_at_the_same_endpoints_moves_nothing() -> None:
    assert moves(tell(connected(), advice(), epoch=4)) == []


def test_another_order_of_the_same_endpoints_breaks_no_connection() -> None:
    session = connected()
    assert moves(tell(session, advice(endpoints=(THERE, HERE)), epoch=4)) == []
    assert session.broker.endpoints == (THERE, HERE)  # `Placement` goes by these


def test_an_order_that_a_person_typed_is_used_at_once() -> None:
    (move,) = moves(connected().edited(broker(endpoints=(THERE, HERE))))
    assert not move.staggered


def test_new_authorities_renew_the_connection_in_turn() -> None:
    other = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()
    (move,) = moves(tell(connected(), advice(ca=CA + other), epoch=4))
    assert move.staggered


def test_a_connection_to_an_endpoint_that_goes_moves_at_once() -> None:
    (move,) = moves(tell(connected(), advice(endpoints=(THERE,)), epoch=4))
    assert not move.staggered


@pytest.mark.parametrize("change", [{"endpoints": ("http://x",)}, {"ca": "no certificate"}, {"vhost": ""}])
def test_advice_that_could_not_work_is_not_taken(change: dict[str, Any]) -> None:
    session = connected()
    assert kinds(tell(session, advice(**change), epoch=4)) == []
    assert session.broker == broker()
    assert session.skipped == {"malformed": 1}


def test_an_edit_is_used_and_acknowledged_but_not_written_again() -> None:
    session = connected()
    told = session.edited(broker(epoch=2, endpoints=(THERE,)))
    assert kinds(told) == [Connect, Send]
    assert session.edited(broker(epoch=2, endpoints=(THERE,))) == []
    assert kinds(tell(session, Desired(revision=1, instances=()), epoch=2)) == [Fulfil]


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_oddity_is_logged_once_per_sender_and_counted_always() -> None:
    session = connected()
    notes = [session.message(b"rubbish", key="db1", user=user) for user in ("a", "a", "b", "a")]
    assert [len(one) for one in notes] == [1, 0, 1, 0]
    assert session.skipped == {"not_json": 4}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
TYPES = st.sampled_from(["advice", "desired", "inquire", "hello", "pulse", "node_pulse", "?"])
ENVELOPES = st.fixed_dictionaries(
    {"v": st.just(1) | JSON, "type": TYPES | JSON, "epoch": st.integers(0, 9) | JSON, "body": JSON},
    optional={"id": JSON, "sender": JSON, "at": JSON},
)


@settings(max_examples=300)
@given(
    st.binary(max_size=200) | ENVELOPES.map(lambda one: json.dumps({"id": "", "sender": "", "at": ""} | one).encode())
)
def test_no_message_raises_or_lowers_the_epoch(data: bytes) -> None:
    session = connected()
    session.message(data, key="db1", user=None)
    assert session.broker.epoch >= 3


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.booleans()), max_size=20))
def test_what_is_obeyed_never_goes_back(messages: list[tuple[int, int, bool]]) -> None:
    session, obeyed = connected(), []
    for epoch, revision, is_advice in messages:
        body = advice(epoch=epoch) if is_advice else Desired(revision=revision, instances=())
        if any(isinstance(one, Fulfil) for one in carry_out(session, tell(session, body, epoch=epoch), full=False)):
            obeyed.append((epoch, revision))
            assert epoch == session.broker.epoch
    assert obeyed == sorted(obeyed)


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["advice", "desired"]), st.integers(3, 6), st.booleans()),
    st.tuples(st.sampled_from(["restart", "touch"]), st.just(0), st.booleans()),
)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=20))
def test_no_older_epoch_is_obeyed_after_a_newer_one_whatever_the_disk_does(events: list[tuple[str, int, bool]]) -> None:
    """Also over restarts, while the disk is full now and then, and something touches broker.json."""
    session, file, obeyed = connected(), broker(), [0]
    for number, (what, epoch, full) in enumerate(events):
        if what == "restart":
            session = Session(version="1", session="s", instances=("i1",), broker=file, files=FILES)
            continue
        if what == "touch":
            told = session.edited(file)
        else:
            said: Body = advice(epoch=epoch) if what == "advice" else Desired(revision=number, instances=())
            told = tell(session, said, epoch=epoch)
        done = carry_out(session, told, full=full)
        file = next((one.settings for one in done if isinstance(one, Store)), file)
        if any(isinstance(one, Fulfil | Send) for one in done):
            assert file.epoch == session.broker.epoch, "obeyed before it was stored"
            obeyed.append(file.epoch)
    assert obeyed == sorted(obeyed)


def test_what_is_too_large_to_send_is_shortened_to_what_was_wished() -> None:
    databases = tuple(ObservedDatabase(name=n, charset="a", collation="b", size_bytes=1) for n in ("mine", "other"))
    result = Result(name="mine", version=1, phase="ready")
    (short,) = shortened([UP.model_copy(update={"databases": databases, "database_results": (result,)})])
    assert [one.name for one in short.databases] == ["mine"]
    assert short.message


def test_pulses_carry_what_is_held() -> None:
    session = connected()
    tell(session, Desired(revision=7, instances=()))
    (pulse,) = sent(session.pulse())
    assert isinstance(pulse, Pulse)
    assert (pulse.epoch, pulse.revision, pulse.endpoint) == (3, 7, HERE)


# ── the broker password ──────────────────────────────────────────────────────────────────────────────────────────────

OFFER = Offer(number=1, broker_password_hash="A" * 48)


def told_of(session: Session, number: int, *, active: bool = False) -> list[Instruction]:
    return tell(session, advice(epoch=3, credential=Credential(number=number, active=active)))


def test_a_password_that_is_wanted_is_made_offered_and_used_when_the_broker_knows_it() -> None:
    session = connected()
    assert MakePassword(1) in told_of(session, 1)
    (offered,) = sent(session.made(OFFER))
    assert isinstance(offered, Advised)
    assert (offered.credential, offered.offer) == (0, OFFER)
    (pulse,) = sent(session.pulse())
    assert isinstance(pulse, Pulse)
    assert (pulse.credential, pulse.offer, pulse.trust) == (0, OFFER, trust_of(CA))
    asked_again = told_of(session, 1)
    assert MakePassword(1) not in asked_again
    assert UsePassword() not in asked_again
    assert UsePassword() in told_of(session, 1, active=True)
    (switched,) = sent(session.switched(1))
    assert isinstance(switched, Advised)
    assert (switched.credential, switched.offer) == (1, None)
    after = told_of(session, 1, active=True)
    assert not {MakePassword, UsePassword} & {type(one) for one in after}


def test_a_password_that_was_never_made_is_not_used_though_the_broker_should_know_it() -> None:
    assert UsePassword() not in told_of(connected(), 1, active=True)
    assert MakePassword(1) in told_of(connected(), 1, active=True)


def test_a_deposed_primary_has_no_password_changed() -> None:
    session = connected()
    tell(session, advice(epoch=5), epoch=5)
    told = tell(session, advice(epoch=4, credential=Credential(number=1)), epoch=4)
    assert not [one for one in told if isinstance(one, MakePassword)]
