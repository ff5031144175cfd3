"""How a command starts many parts at once, and how the next command knows what the last one started."""

import threading
from pathlib import Path

import pytest
from localcluster import process
from localcluster.process import ProcessFailed
from localcluster.records import Records, exclusive
from localcluster.steps import Steps


def _fails() -> None:
    raise ProcessFailed("the broker is ill")


def test_each_step_is_told_with_its_verdict() -> None:
    told: list[str] = []
    with pytest.raises(ProcessFailed, match="the broker is ill"), Steps(told.append) as steps:
        steps.run("keys", lambda: None)
        steps.run("broker", _fails)
    assert [line.split()[:2] for line in told] == [["ok", "keys"], ["FAIL", "broker"]]
    assert all(line.endswith(" s") for line in told)


def test_steps_that_run_together_really_do() -> None:
    meeting = threading.Barrier(3, timeout=10)
    with Steps(lambda line: None) as steps:
        steps.begin("early", lambda: _meet(meeting))
        steps.together({"one": lambda: _meet(meeting), "other": lambda: _meet(meeting)})


def _meet(meeting: threading.Barrier) -> None:
    meeting.wait()


def test_a_failure_waits_for_the_others_so_that_nothing_starts_behind_its_back() -> None:
    ended = threading.Event()
    go_on = threading.Event()

    def slow() -> None:
        go_on.wait(10)
        ended.set()

    def fail() -> None:
        go_on.set()
        _fails()

    with pytest.raises(ProcessFailed), Steps(lambda line: None) as steps:
        steps.begin("slow", slow)
        steps.run("broker", fail)
    assert ended.is_set()


def test_a_failure_of_what_was_begun_is_not_lost() -> None:
    with pytest.raises(ProcessFailed), Steps(lambda line: None) as steps:
        steps.begin("broker", _fails)
        steps.run("keys", lambda: None)


def test_a_failure_of_what_was_begun_is_told_before_the_next_step_is_done() -> None:
    with pytest.raises(ProcessFailed), Steps(lambda line: None) as steps:
        steps.begin("broker", _fails)
        while True:  # until the failure is there: then the next step is not done but raises it
            steps.run("wait", lambda: None)


def test_the_next_command_finds_what_this_one_started(tmp_path: Path) -> None:
    child = process.start(["sleep", "600"], log=tmp_path / "log")
    Records(tmp_path / "processes.json").put("p1", child)
    later = Records(tmp_path / "processes.json")
    assert later.get("p1") == child
    assert later.alive("p1")
    child.kill()
    assert not later.alive("p1")
    later.forget("p1")
    assert Records(tmp_path / "processes.json").get("p1") is None


def test_one_command_at_a_time(tmp_path: Path) -> None:
    told = threading.Event()
    order: list[str] = []

    def second() -> None:
        with exclusive(tmp_path / "lock", told.set):
            order.append("second")

    other = threading.Thread(target=second)
    with exclusive(tmp_path / "lock", lambda: pytest.fail("nobody else is there")):
        other.start()
        assert told.wait(10), "who waits says so"
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
