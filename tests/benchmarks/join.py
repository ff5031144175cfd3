"""How long a fresh host takes to become a standby of a cluster that holds 100,000 documents: `tests/benchmarks/run
--join`. Here without a broker of its own; with one, on hosts: `tests/hosts/test_join_large.py`."""

import time
from collections.abc import Callable

from localcluster.cluster import Cluster
from localcluster.provider import Provider

from tests.benchmarks.fill import fill

DOCUMENTS = 100_000
AT_MOST_S = 60.0
Row = tuple[str, str, str]


def measure(cluster: Cluster, say: Callable[[str], None]) -> list[Row]:
    """`cluster` has two providers, and is not up: the second one joins."""
    first, fresh = cluster.providers.values()
    say(f"filling the store with {DOCUMENTS:,} documents …")
    assert first.process is not None
    first.process.stop()
    fill(f"sqlite:///{first.files.directory / 'data' / 'state.db'}", DOCUMENTS)
    first.launch()
    first.wait_ready()
    token = cluster.layout.tokens / "join"
    first.create_token("node", token)
    say("joining …")
    return [*joined(first, fresh, str(token), say)]


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
