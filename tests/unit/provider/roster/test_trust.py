"""New authorities and new passwords: who is told, who is asked, and how many at a time."""

from provider.core.commands import RotateCredential, SwitchCredential
from provider.core.documents import AgentStatus
from provider.fleet.follow import advised, agents_without_trust, to_rotate
from provider.fleet.instructions import Change as Rotation
from provider.fleet.instructions import Instruction, SendAdvice
from shared import messages as m
from tests.support.rosters import Fleet, agent, change, hello, saying

OLD_TRUST, NEW_TRUST = "0" * 16, "f" * 16
OFFER = m.Offer(number=1, broker_password_hash="A" * 48)


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
