"""Fast tests first: a mistake shows before the slow ones begin. Long ones only when they are asked for."""

import pytest

SLOWNESS = ("unit", "model", "contract", "provider", "agent", "console", "deploy", "security", "cluster", "hosts")
LEFT_OUT = pytest.StashKey[int]()


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        tests = "test" if left_out == 1 else "tests"
        terminalreporter.write_line(f"{left_out} long {tests} left out. To run them: tests/run -m long")


def _slowness(item: pytest.Item) -> int:
    return next((rank for rank, kind in enumerate(SLOWNESS) if kind in item.path.parts), len(SLOWNESS))
