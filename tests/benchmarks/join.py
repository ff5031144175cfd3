"""How long a provider that holds 100,000 documents takes to start, and a fresh host to become a standby of such a
cluster: `tests/benchmarks/run --join`. Here without a broker of its own; with one, on hosts:
`tests/hosts/test_join_large.py`."""

import time
from collections.abc import Callable
from statistics import median

import psutil
from localcluster.cluster import Cluster
from localcluster.provider import Provider

from tests.benchmarks.fill import fill

DOCUMENTS = 100_000
AT_MOST_S = 60.0
STARTS = 5
Row = tuple[str, str, str]


def measure(cluster: Cluster, say: Callable[[str], None]) -> list[Row]:
    """`cluster` has two providers, and is not up: the second one joins."""
    first, fresh = cluster.providers.values()
    say(f"filling the store with {DOCUMENTS:,} documents …")
    assert first.process is not None
    first.process.stop()
    fill(f"sqlite:///{first.files.directory / 'data' / 'state.db'}", DOCUMENTS)
    say("starting with them …")
    rows = started(first)
    token = cluster.layout.tokens / "join"
    first.create_token("node", token)
    say("joining …")
    return rows + joined(first, fresh, str(token), say)


def started(node: Provider) -> list[Row]:
    """Time and processor time from the process's start until it is ready, reads and writes."""
    walls, processors = [], []
    for number in range(STARTS):
        if number:
            assert node.process is not None
            node.process.stop()
        began_s = time.monotonic()
        node.launch()
        node.wait_ready()
        walls.append(time.monotonic() - began_s)
        assert node.process is not None
        used = psutil.Process(node.process.pid).cpu_times()
        processors.append(used.user + used.system)
    name = f"provider, start to ready with {DOCUMENTS:,} documents"
    return [
        (f"{name}, {STARTS} times", f"median {median(walls):.2f} s, worst {max(walls):.2f} s", "< 2 s"),
        (f"{name}, processor time", f"median {median(processors):.2f} s", ""),
    ]


def joined(first: Provider, fresh: Provider, token: str, say: Callable[[str], None]) -> list[Row]:
    """From the command's start until it serves reads as a standby."""
    began_s = time.monotonic()
    arguments = ["join", first.url, "--name", fresh.name, "--url", fresh.url, "--token-file", token]
    said = fresh.command(*arguments)
    joined_s = time.monotonic() - began_s
    fresh.launch()
    fresh.wait_ready()
    ready_s = time.monotonic() - began_s
    for line in said.splitlines():
        say(f"  {line}")
    return [
        (f"join with {DOCUMENTS:,} documents, the command", f"{joined_s:.1f} s", ""),
        (f"join with {DOCUMENTS:,} documents, until it serves reads", f"{ready_s:.1f} s", f"≤ {AT_MOST_S:.0f} s"),
    ]
