"""What is told of a daemon from the file that it wrote."""

import json
import os
import subprocess
from pathlib import Path

from agent.brokerfile import BrokerSettings
from agent.commands import readable
from agent.placement import Placement
from agent.session import Session
from agent.settings import AgentFiles
from agent.status import StatusFile, process_start, read_status


def test_a_daemon_that_was_killed_is_not_running_though_nobody_has_buried_it(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as daemon:
        file = tmp_path / "status.json"
        said = {
            "state": "running",
            "pid": daemon.pid,
            "pid_started": process_start(daemon.pid),
            "endpoint": "amqps://b",
        }
        file.write_text(json.dumps(said))
        assert read_status(file) == said
        daemon.kill()
        os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
        assert read_status(file) == said | {"state": "stopped", "endpoint": None}


def test_status_tells_where_the_agent_is_and_why_and_since_when(tmp_path: Path) -> None:
    here, there = "amqps://here:5671", "amqps://there:5671"
    files = AgentFiles(tmp_path / "agent.toml")
    broker = BrokerSettings(3, "p1", (here, there), (), "bellwether", "", files.ca)
    session = Session(version="1", session="s", instances=(), broker=broker, files=files)
    placement = Placement("db1", broker.endpoints, epoch=3, stagger_s=1.0, return_s=10.0)
    status = StatusFile(files.status)
    session.connected(there)
    placement.connected(there, 0.0)
    status.update(session, placement, None)
    first = read_status(files.status)
    assert first is not None
    assert (first["endpoint"], first["preferred_endpoint"]) == (there, here)
    assert first["why"] == f"{here} is preferred; to be looked at soon"
    shown = readable(first | {"id": "db1"})
    assert f"  broker    {there}\n            {first['why']} (since {first['why_since']})\n" in shown
    status.update(session, placement, None)
    assert read_status(files.status) == first
    placement.connected(here, 1.0)
    session.connected(here)
    status.update(session, placement, None)
    later = read_status(files.status)
    assert later is not None
    assert later["why"] == "the preferred broker, the primary's"
