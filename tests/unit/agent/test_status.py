"""What is told of a daemon from the file that it wrote."""

import json
import os
import subprocess
from pathlib import Path

from agent.status import process_start, read_status


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
