"""Fast tests first: a mistake shows before the slow ones begin."""

import pytest

SLOWNESS = ("unit", "model", "contract", "provider", "agent", "console", "deploy", "security", "cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_slowness)  # stable: within a directory the order stays


def _slowness(item: pytest.Item) -> int:
    return next((rank for rank, kind in enumerate(SLOWNESS) if kind in item.path.parts), len(SLOWNESS))
