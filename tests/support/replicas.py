"""Replicas and one log, in memory, with a clock that stands still until it is told."""

from itertools import count
from typing import Any

from provider.core.commands import Command
from provider.core.entries import Change, LogRecord
from provider.core.replica import Append, Done, Instruction, Now, Replica, Request
from provider.core.state import State

START_MS = 1_700_000_000_000


class Cluster:
    """Some replicas and one log. What they append waits on `wire` until it is let through."""

    def __init__(self, *names: str) -> None:
        ids, self.log, self.wire, self.mono_s = count(1), list[LogRecord](), list[LogRecord](), 0.0
        members = [Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in names]
        start = (Change(kind="setting", id="user.a", spec={"value": 0}), *members)
        self.genesis = State.genesis(generation="g", primary="p1", now=START_MS, changes=start)
        self._new_id, self._tickets = lambda: f"r{next(ids)}", count(1)
        self.nodes = {name: Replica(name, self.genesis, self._new_id) for name in names}
        self.position = dict.fromkeys(names, 0)
        self.results: dict[int, list[Any]] = {}
        self.done: list[tuple[str, Instruction]] = []
        for name in names:
            self.connect(name)
        self.settle()

    @property
    def now(self) -> Now:
        return Now(START_MS + int(self.mono_s * 1000), self.mono_s)

    def carry_out(self, name: str, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self.done.append((name, instruction))
            if isinstance(instruction, Append):
                self.wire.append(instruction.record)
            elif isinstance(instruction, Done):
                self.results.setdefault(instruction.ticket, []).append(instruction.result)

    def connect(self, name: str) -> None:
        self.carry_out(name, self.nodes[name].log_up(self.now))

    def cut(self, name: str) -> None:
        self.carry_out(name, self.nodes[name].log_down())

    def restart(self, name: str, state: State, position: int) -> None:
        self.nodes[name], self.position[name] = Replica(name, state, self._new_id), position
        self.connect(name)

    def submit(self, name: str, command: Command, *, wait_s: float = 5.0, **other: Any) -> int:
        ticket = next(self._tickets)
        self.results[ticket] = []
        request = Request(ticket, command, "ann", "a test", self.mono_s + wait_s, **other)
        self.carry_out(name, self.nodes[name].submit(request, self.now))
        return ticket

    def promote(self, name: str, *, promote: bool = True) -> int:
        ticket = next(self._tickets)
        self.results[ticket] = []
        self.carry_out(name, self.nodes[name].barrier(ticket, self.mono_s + 5, self.now, promote=promote))
        return ticket

    def arrive(self) -> None:
        """All that is on the wire reaches the log."""
        self.log += self.wire
        self.wire = []

    def read(self, name: str) -> None:
        """The node reads to the end."""
        while self.position[name] < len(self.log):
            self.position[name] += 1
            self.carry_out(name, self.nodes[name].read(self.log[self.position[name] - 1], self.now))

    def settle(self) -> None:
        """Everything arrives, and all that are connected read to the end."""
        connected = [name for name, node in self.nodes.items() if node.connected]
        while self.wire or any(self.position[name] < len(self.log) for name in connected):
            self.arrive()
            for name in connected:
                self.read(name)

    def tick(self, name: str, seconds: float) -> None:
        self.mono_s += seconds
        self.carry_out(name, self.nodes[name].tick(self.now))

    def result(self, ticket: int) -> Any:
        (result,) = self.results[ticket]
        return result


def value(node: Replica, key: str = "user.a") -> Any:
    document = node.state.get("setting", key)
    return None if document is None else document.spec["value"]
