"""Nodes whose engines are real, and that ask each other in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.recovering import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    yield found
    for name in list(found.up):
        found.stop(name)
