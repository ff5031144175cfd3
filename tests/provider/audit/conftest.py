"""One node whose API, engine and store are the real ones."""

from collections.abc import Iterator

import pytest

from tests.support.apis import ApiNode
from tests.support.audits import told


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("audited")) as node:
        yield node


@pytest.fixture
def p1(shared_node: ApiNode) -> ApiNode:
    told(shared_node)  # what earlier tests left
    return shared_node
