"""A log in memory, and engines on it that end with the test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import Host, StartHost, genesis
from tests.support.memory_log import MemoryLogStream


@pytest.fixture
def stream() -> MemoryLogStream:
    return MemoryLogStream()


@pytest.fixture
def start(stream: MemoryLogStream, tmp_path: Path) -> Iterator[StartHost]:
    """`start("p1")` on a fresh store, in a cluster of three; `start("p1", fresh=False)` on what is there."""
    hosts: list[Host] = []

    def begin(name: str, *, fresh: bool = True, directory: Path = tmp_path, **options: Any) -> Host:
        seed = genesis("p1", "p2", "p3") if fresh else None
        hosts.append(Host(name, stream, directory, seed=seed, **options))
        return hosts[-1].start()

    yield begin
    for host in hosts:
        host.log.open()
        host.stop()
