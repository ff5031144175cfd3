"""What a daemon asks of root for its host's broker: until root says that it is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from localcluster.process import wait_until

from provider.broker.own import OwnBroker
from provider.core.entries import Change
from provider.core.state import State

BROKER = {"node": "rabbit@p1", "version": "4.0.5", "address": "10.0.0.1", "plugins": []}


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    return lambda: dict(json.loads((tmp_path / "broker.json").read_text()))


def test_what_root_did_not_see_is_asked_for_again_until_it_is_done(
    tmp_path: Path, asked: Callable[[], dict[str, Any]]
) -> None:
    """The unit that looks at the file is blind while what it has started still runs."""
    file, status = tmp_path / "broker.json", tmp_path / "status.json"
    node = Change(kind="node", id="p1", spec={"url": "https://p1:1", "broker": BROKER})
    state = State.genesis(generation="g", primary="p1", now=0, changes=(node,))
    own = OwnBroker(node="p1", data_dir=tmp_path, state=state, vault=None, status=status)  # type: ignore[arg-type]
    own.removed()
    own.start()
    try:
        wait_until(file.exists, timeout_s=20, what="nothing is asked for")
        first = asked()
        assert (first["member"], first["own"]) == (False, "rabbit@p1")
        file.unlink()
        wait_until(file.exists, timeout_s=20, what="it is not asked for again")
        assert asked() == first, "it is the same request"
        status.write_text(json.dumps({"problem": None, "at": 1, "made": first["asked"]}))
        wait_until(lambda: own.made, timeout_s=60, what="it does not see that it is done")
    finally:
        own.stop()
