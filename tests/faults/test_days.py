"""Invariant: whatever a bad day brings, no promise is broken; and a system with one rule broken does not get through.

The command prints what it did; a seed that fails is printed with the command that replays it.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.plan import KINDS, Plan
from tests.faults.variants import VARIANTS

ALONE, PLANS = Path(__file__).parent / "alone", Path(__file__).parent / "plans"
ROOT_ONLY = {"skip fsync"}
LONGEST_S = 600.0
SITTINGS_MAX = 3
"""Of eight days each, until a broken rule shows: "ignore epoch" needs a primary that falls asleep while it writes."""


def bad_days(directory: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed. What a failure leaves is below `directory`."""
    done = subprocess.run(
        [ALONE, "-m", "tests.faults", *arguments],
        env=os.environ | {"TMPDIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )
    print(done.stdout)
    return done.returncode, done.stdout


def test_three_short_bad_days_that_nobody_has_seen_before(tmp_path: Path) -> None:
    code, said = bad_days(tmp_path, "--runs", "3", "--seconds", "4", "--proxy")
    assert code == 0, said


@pytest.mark.long
def test_twenty_bad_days(tmp_path: Path) -> None:
    code, said = bad_days(tmp_path, "--runs", "20", "--proxy")
    assert code == 0, said


@pytest.mark.long
@pytest.mark.parametrize("store", ["mariadb", "shared"])
def test_days_of_stores_in_mariadb(store: str, tmp_path: Path) -> None:
    """It is killed, hangs, loses its power; one for each node, and one for all of them."""
    code, said = bad_days(tmp_path, "--runs", "8", "--seconds", "5", "--store", store)
    assert code == 0, said


@pytest.mark.long
def test_days_of_three_brokers(tmp_path: Path) -> None:
    """One on each host: one, most or all of them are killed, hang, lose their power."""
    code, said = bad_days(tmp_path, "--runs", "8", "--seconds", "5", "--brokers", "3")
    assert code == 0, said


@pytest.mark.long
@pytest.mark.parametrize("file", sorted(PLANS.glob("*.json")), ids=lambda file: file.stem)
def test_plans_under_which_something_was_once_broken(file: Path, tmp_path: Path) -> None:
    """Plans, and not seeds: what a seed draws changes with the kinds of faults that there are."""
    if os.geteuid() != 0 and any(KINDS[step.kind].needs for step in Plan.read(file).steps):
        pytest.skip("only root can do what is in this plan")
    store = json.loads(file.read_text())["store"]
    code, said = bad_days(tmp_path, "--plan", str(file), "--runs", "3", "--store", store)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_a_broken_rule_is_noticed(name: str, tmp_path: Path) -> None:
    """Within a few days of the faults under which it shows."""
    if name in ROOT_ONLY and os.geteuid() != 0:
        pytest.skip("only root can cut the power of disks")
    kinds = ",".join(VARIANTS[name].kinds)
    for _ in range(SITTINGS_MAX):
        code, said = bad_days(tmp_path, "--runs", "8", "--variant", name, "--kinds", kinds)
        if code != 0:
            break
    assert code == 1, said
    assert any(line.startswith(f"{rule}: ") for rule in VARIANTS[name].shows_as for line in said.splitlines()), said
