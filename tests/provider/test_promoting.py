"""What a promotion says that comes to no end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provider.core.instructions import Ask
from tests.support.apis import ApiNode, Members
from tests.support.engines import Host


@contextmanager
def deposed(directory: Path) -> Iterator[ApiNode]:
    """p1 of three nodes: p2 is primary now."""
    with ApiNode(directory) as p1:
        founded = p1.state
        p1.commit(Members((1, 2, 3)))
        p2 = Host("p2", p1.host.stream, directory, seed=founded).start()
        try:
            p2.caught_up().promoted()
            p1.host.reach(p2.engine.state.revision)
            yield p1
        finally:
            p2.stop()


def test_a_broker_without_room_is_found_and_no_other_log_begun(tmp_path: Path) -> None:
    with deposed(tmp_path) as p1:
        p1.host.log.shut()
        p1.host.log.why_blocked = "low on disk"
        detail = last_line(p1)["detail"]
        look = p1.ask("POST", "/failover", {"operation": "preflight", "node": "p1", "wait_s": 0.2})
        (failed,) = [check["detail"] for check in look.json["checks"] if not check["ok"]]
        for said in (detail, failed):
            assert said.startswith("log: the broker takes no writes (low on disk): one of the brokers")
            assert ("rabbitmq-diagnostics alarms" in said, "--force" in said, "lost" in said) == (True, False, True)
        assert "nothing is lost" in failed


def last_line(node: ApiNode, **more: object) -> Any:
    said = node.ask("POST", "/failover", {"operation": "promote", "node": node.name, "wait_s": 0.2, **more})
    return json.loads(said.body.splitlines()[-1])


def test_a_member_that_has_more_and_cannot_bring_it_is_named_when_patience_ends(tmp_path: Path) -> None:
    """The log was read to its end: to say that it could not be sends people to the wrong place."""
    known = "p3 has revision 812, this node 4: waiting for what is between"
    with deposed(tmp_path) as p1:
        engine = p1.host.engine

        def ask(asked: Ask) -> None:
            engine.waits_for = None if asked.force else known
            if asked.force:
                engine.vouched(asked.about, asked.connection)

        engine.attach(on_ask=ask, on_lost=lambda: None)
        found = last_line(p1)
        assert (found["result"], found["code"], found["primary"]) == ("failed", "behind", "p2")
        assert found["detail"].startswith(f"{known}; given up after 0.2 s without a sign, and nothing was changed")
        assert "the log could not be read" not in found["detail"]
        assert last_line(p1, force=True)["result"] == "promoted", "as it says"
