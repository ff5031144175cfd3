"""Agents enrol, and make their instances known."""

from provider.core import documents as docs
from provider.core.commands import EnrollAgent, Plan, RecordStatus, RegisterInstance, RemoveAgent, StatusUpdate
from provider.core.documents import InstanceStatus
from shared.errors import Invalid, NotFound, Refused
from tests.support.commands import NOW, SPEC_AGENT, do, fleet, get, instance, refusal, status_of


def test_an_agent_enrols_with_its_instances() -> None:
    state = do(fleet(), EnrollAgent("db2", "enrol", SPEC_AGENT, (("db2", instance("db2")), ("db3", instance("db2")))))
    assert get(state, "instance", "db3").spec["agent"] == "db2"
    assert get(state, "token", "enrol").status["used_by"] == "agent db2"


def test_reasons_not_to_enrol_an_agent() -> None:
    def enrol(id_: str, *instances: tuple[str, docs.InstanceSpec]) -> EnrollAgent:
        return EnrollAgent(id_, "enrol", SPEC_AGENT, instances)

    refusal(fleet(), enrol("a.b"), Invalid, "agent name")
    refusal(fleet(), enrol("all"), Invalid, "every agent")
    refusal(fleet(), enrol("db1"), Refused, "enrolled already")
    refusal(fleet(), enrol("db2", ("x y", instance("db2"))), Invalid, "instance name")
    refusal(fleet(), enrol("db2", ("db1", instance("db2"))), Refused, "looked after by agent 'db1'")
    refusal(fleet(), enrol("db2", ("db2", instance("db2")), ("db2", instance("db2"))), Invalid, "only once")
    refusal(fleet(), enrol("db2", ("db2", instance("db1"))), Invalid, "for agent 'db1'")


def test_an_instance_whose_agent_was_removed_is_taken_over() -> None:
    state = do(fleet(), RemoveAgent("db1"))
    refusal(state, RemoveAgent("db1"), NotFound)
    taken = do(state, EnrollAgent("db2", "enrol", SPEC_AGENT, (("db1", instance("db2")),)))
    assert get(taken, "instance", "db1").spec["agent"] == "db2"


def test_an_agent_registers_instances() -> None:
    assert status_of(fleet(), RegisterInstance("more", instance())) == 201
    assert RegisterInstance("db1", instance()).plan(fleet(), NOW) == Plan(200, ("instance", "db1"))
    moved = instance().model_copy(update={"socket": "/run/y.sock"})
    up = do(fleet(), RecordStatus((StatusUpdate("instance", "db1", InstanceStatus(state="up")),)))
    assert get(do(up, RegisterInstance("db1", moved)), "instance", "db1").status["state"] == "up"
    refusal(fleet(), RegisterInstance("a/b", instance()), Invalid, "instance name")
    refusal(fleet(), RegisterInstance("more", instance("db9")), NotFound, "agent")
    other = do(fleet(), EnrollAgent("db2", "enrol", SPEC_AGENT))
    refusal(other, RegisterInstance("db1", instance("db2")), Refused, "looked after by agent 'db1'")
    orphan = do(other, RemoveAgent("db1"))
    assert status_of(orphan, RegisterInstance("db1", instance("db2"))) == 200
