"""The agent as a process, and what a provider wishes and hears of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.broker import Broker
from localcluster.process import Process, tail, wait_until
from localcluster.process import start as start_process

from shared.messages import Advice, Desired, DesiredInstance, Report

Query = Callable[..., list[tuple[Any, ...]]]
"""Runs one statement as the database server's administrator."""

PASSWORD = "broker-password"
PROGRAM = Path(sys.executable).with_name("agent")


@dataclass
class Agent:
    directory: Path
    process: Process | None = None

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def broker_json(self) -> Path:
        return self.directory / "broker.json"

    def start(self) -> Process:
        self.process = start_process([PROGRAM, "run", "--config", self.config], log=self.directory / "agent.log")
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def log(self) -> str:
        return tail(self.directory / "agent.log", 200)

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [PROGRAM, "status", "--json", "--config", self.config], capture_output=True, text=True, check=False
        )
        content: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if content["state"] == "running" else 1)
        return content

    def edit(self, **changes: Any) -> None:
        """As an editor does: aside, then renamed over."""
        content = json.loads(self.broker_json.read_text()) | changes
        aside = self.directory / "broker.json~"
        aside.write_text(json.dumps(content))
        aside.replace(self.broker_json)


def advice(broker: Broker, **more: Any) -> Advice:
    content = {
        "epoch": 1,
        "primary": "p1",
        "endpoints": (broker.endpoint,),
        "providers": ("https://127.0.0.1:1",),
        "vhost": "bellwether",
        "ca": broker.ca.read_text(),
    }
    return Advice.model_validate(content | more)


def desired(revision: int, *, databases: tuple[dict[str, Any], ...] = (), accounts: tuple[Any, ...] = ()) -> Desired:
    content = {
        "id": "db1",
        "databases": [{"version": revision} | one for one in databases],
        "accounts": [{"version": revision} | one for one in accounts],
    }
    return Desired(revision=revision, instances=(DesiredInstance.model_validate(content),))


def has_result(name: str, phase: str) -> Callable[[Report], bool]:
    def check(report: Report) -> bool:
        results = [*report.instances[0].database_results, *report.instances[0].account_results]
        return any(result.name == name and result.phase == phase for result in results)

    return check


def is_state(state: str) -> Callable[[Report], bool]:
    return lambda report: report.instances[0].state == state


def wait(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, timeout_s=15.0, what=what)
