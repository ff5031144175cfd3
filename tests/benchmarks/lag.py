"""How much later a standby shows a revision than the primary does."""

import http.client
import json
import ssl
import threading
import time
from urllib.parse import urlsplit

from localcluster.cluster import Cluster

from tests.benchmarks.load import Running

CLIENTS = 16


def _events(cluster: Cluster, node: str) -> http.client.HTTPResponse:
    url = urlsplit(cluster.providers[node].url)
    context = ssl.create_default_context(cafile=str(cluster.layout.ca))
    connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context)
    token = cluster.layout.admin_token.read_text().strip()
    connection.request(
        "GET", "/api/v1/events", headers={"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
    )
    return connection.getresponse()


def _watch(cluster: Cluster, node: str, seen: dict[int, float], seconds: float) -> None:
    """Notes when `node` told of each revision."""
    end = time.monotonic() + seconds
    response = _events(cluster, node)
    while time.monotonic() < end:
        line = response.readline()
        if line.strip():
            seen[json.loads(line)["revision"]] = time.monotonic()


def _pause_ms(cluster: Cluster, primary: str, per_s: int) -> int:
    """How long each connection should pause between its writes for `per_s` in all: tried, since it depends on how long
    a write takes at that rate."""
    pause_ms = wanted_ms = CLIENTS * 1000 / per_s
    for _ in range(3):
        tried = Running(cluster, primary, clients=CLIENTS, seconds=2, pause_ms=int(pause_ms)).result()
        pause_ms = max(0.0, pause_ms + wanted_ms - CLIENTS * 1000 / tried.per_s)
    return int(pause_ms)


def lag_ms(cluster: Cluster, *, primary: str, standby: str, per_s: int, seconds: int) -> tuple[float, float, float]:
    """Median and 99th percentile of the lag in ms, and the writes a second that there really were.

    Both nodes' event streams are read by this one process, so there is one clock; a stream tells of a revision when the
    node shows it. A negative lag counts as 0.
    """
    pause_ms = _pause_ms(cluster, primary, per_s)
    load = Running(cluster, primary, clients=CLIENTS, seconds=seconds, pause_ms=pause_ms)
    seen: dict[str, dict[int, float]] = {primary: {}, standby: {}}
    watchers = [threading.Thread(target=_watch, args=(cluster, node, seen[node], seconds - 1.0)) for node in seen]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    result = load.result()
    both = seen[primary].keys() & seen[standby].keys()
    lags = sorted(max(0.0, (seen[standby][revision] - seen[primary][revision]) * 1000) for revision in both)
    return lags[len(lags) // 2], lags[int(len(lags) * 0.99)], result.per_s
