"""Invariant: a plan follows from its seed alone, and what is drawn can be done."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.nemesis import DEEDS
from tests.faults.plan import KINDS, ROLES, Plan, draw, possible

PLANS = Path(__file__).parents[2] / "faults" / "plans"


def test_the_same_seed_is_the_same_plan() -> None:
    plan = draw(17, seconds=8.0, kinds=possible({"disks", "agent"}))
    assert plan == draw(17, seconds=8.0, kinds=reversed(possible({"agent", "disks"})))


def test_a_plan_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    plan = draw(17, seconds=8.0, kinds=KINDS)
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


@given(st.integers(0, 10**6))
def test_steps_are_within_the_run_and_of_the_kinds_that_were_asked_for(seed: int) -> None:
    kinds = possible({"agent"})
    plan = draw(seed, seconds=5.0, kinds=kinds)
    assert 2 <= len(plan.steps) <= 5
    assert all(0 < step.at_s < 5 and step.kind in kinds for step in plan.steps)
    assert all(step.for_s <= KINDS[step.kind].longest_s for step in plan.steps)
    assert list(plan.steps) == sorted(plan.steps, key=lambda step: step.at_s)


def test_what_is_not_there_is_not_needed() -> None:
    assert "power cut" not in possible({"agent"})
    assert "agent killed" not in possible({"disks"})
    assert {kind for kind in KINDS if KINDS[kind].needs is None} <= set(possible(()))


def test_every_kind_can_be_done_to_somebody() -> None:
    assert KINDS.keys() == DEEDS.keys()
    assert {role for kind in KINDS.values() for role in kind.roles} <= {*ROLES, "-"}


@pytest.mark.parametrize("file", sorted(PLANS.glob("*.json")), ids=lambda file: file.stem)
def test_a_plan_that_is_kept_can_still_be_carried_out(file: Path) -> None:
    kept = json.loads(file.read_text())
    plan = Plan.read(file)
    assert kept["what"]
    assert kept["store"] in ("sqlite", "mariadb", "shared")
    assert plan.steps
    for step in plan.steps:
        assert step.role in KINDS[step.kind].roles
        assert 0 <= step.at_s < plan.seconds
        assert (KINDS[step.kind].needs or "").startswith("store") <= (kept["store"] != "sqlite")
