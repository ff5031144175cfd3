"""Fast tests first: a mistake shows before the slow ones begin. Long ones only when they are asked for.

Several at a time (`-n 3`): a module's tests stay together, in their order. Each worker takes its TCP ports from a range
of its own: what one has chosen but not yet bound is never another's.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from localcluster.ports import RANGE, port_range
from loguru import logger

SLOWNESS = (
    "unit",
    "model",
    "contract",
    "provider",
    "agent",
    "console",
    "deploy",
    "security",
    "cluster",
    "faults",
    "hosts",
)
LEFT_OUT = pytest.StashKey[int]()

# How long an example takes says something of the machine, nothing of the program.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged from warnings on."""
    found: list[str] = []
    sink = logger.add(lambda message: found.append(str(message)), level="WARNING", format="{message} {extra}")
    yield found
    logger.remove(sink)


def pytest_configure(config: pytest.Config) -> None:
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        ports, workers = port_range(), workerinput["workercount"]
        number, size = int(workerinput["workerid"].removeprefix("gw")), len(ports) // workers
        # A worker that replaces one that died has a higher number.
        first = ports.start + number % workers * size
        os.environ[RANGE] = f"{first}-{first + size - 1}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from tests.support.workers import OneModuleEach

    return OneModuleEach(config, log)


@pytest.hookimpl(trylast=True)  # what -k has left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_slowness)  # stable: within a directory the order stays
    if config.option.markexpr or all("::" in argument for argument in config.args):
        return  # who chooses by marker, or names a test, gets it
    long = [item for item in items if item.get_closest_marker("long") is not None]
    if long:
        config.stash[LEFT_OUT] = len(long)
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    if error is None:  # every worker collects all tests
        node.config.stash[LEFT_OUT] = node.workeroutput["left_out"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        tests = "test" if left_out == 1 else "tests"
        terminalreporter.write_line(f"{left_out} long {tests} left out. To run them: tests/run -m long")


def _slowness(item: pytest.Item) -> int:
    return next((rank for rank, kind in enumerate(SLOWNESS) if kind in item.path.parts), len(SLOWNESS))
