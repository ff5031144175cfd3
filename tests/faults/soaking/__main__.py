"""A soak: `tests/faults/soak --minutes 120 --rate 200`.

A cluster of its own on this machine takes a steady load for a long time, and another node becomes primary each minute.
Every few seconds it is taken down what each process holds and how far each node lags. At the end: was anything that was
acknowledged lost; is memory flat, is the lag. SIGINT or SIGTERM ends it early, with what it has.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from localcluster.cluster import Cluster
from localcluster.process import ProcessFailed, wait_until

from provider.core.keys import KEYS_MAX
from tests.faults import links
from tests.faults.soaking.load import Load
from tests.faults.soaking.samples import Held, Sample, full_since, held_by, steady
from tests.faults.soaking.words import progress, table
from tests.support import clusters
from tests.support.api import client
from tests.support.nodes import wait_equal

SAMPLE_S = 5.0
SETTLE_S = 300.0
"""After the idempotency keys are full: interpreters and databases come to rest."""
RETENTION_DAYS = 1 / 24
"""Of the history: the least that there is, so that old history is removed while the soak goes on."""
TOLD_EVERY_S = 60.0
END_S = 120.0


def main() -> int:
    asked = _arguments()
    links.loopback()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    root = Path(tempfile.mkdtemp(prefix="bellwether-soak-"))
    with clusters.running(root / "c", providers=3, databases=asked.agents) as cluster:
        client(cluster, cluster.first.name).write("PUT", "/settings/history.days", {"value": RETENTION_DAYS})
        judged = {*cluster.providers, *cluster.agents}
        load = Load(cluster, rate=asked.rate, keyed=asked.keyed, promote_every_s=asked.promote_every)
        out = asked.out or root / "soak"
        print(f"Samples: {out}.ndjson; logs and data: {root}", flush=True)
        began_s = time.monotonic()
        with load.running():
            samples = _watch(cluster, load, out.with_suffix(".ndjson"), asked.minutes * 60, ended)
            ran_s = time.monotonic() - began_s
            load.stop_writing()
            equal = _conclude(cluster, load)
    since_s = full_since(samples, keys_max=KEYS_MAX, settle_s=SETTLE_S) if asked.keyed else SETTLE_S
    found = steady(samples, since_s)
    result = {
        "minutes": round(ran_s / 60, 1),
        "rate_asked": asked.rate,
        "rate_reached": round(load.promises.acknowledged / ran_s, 1),
        "acknowledged": load.promises.acknowledged,
        "violations": load.promises.violations,
        "broken": load.promises.broken,
        "equal": equal,
        "promotions": len(load.promoted_ms),
        "promoted_ms": load.promoted_ms,
        "promotions_refused": load.promotions_refused,
        "refused": load.refused,
        "steady": asdict(found),
        "last": asdict(samples[-1]),
    }
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result, found))
    ours = [change for name, change in found.memory.items() if name in judged]
    return 1 if load.promises.violations or not equal or not all(change.flat for change in ours) else 0


def _watch(cluster: Cluster, load: Load, file: Path, seconds: float, ended: threading.Event) -> list[Sample]:
    """A sample every few seconds, also into `file`, for so long or until it is ended."""
    samples: list[Sample] = []
    began_s = told_s = time.monotonic()
    with file.open("w", buffering=1) as lines:
        while not ended.wait(SAMPLE_S) and time.monotonic() < began_s + seconds:
            samples.append(_sample(cluster, load, began_s))
            lines.write(json.dumps(asdict(samples[-1])) + "\n")
            if time.monotonic() > told_s + TOLD_EVERY_S:
                told_s = time.monotonic()
                print(progress(samples[-1], load.promises.violations, load.refused), flush=True)
    return samples


def _sample(cluster: Cluster, load: Load, began_s: float) -> Sample:
    held: dict[str, Held] = {}
    for name, member in cluster.members.items():
        if member.process is not None:
            try:
                held[name] = held_by(member.process.pid)
            except OSError as error:
                load.promises.complain(f"{name} has ended by itself: {error}")
    took = sorted(load.take_times())
    newest = max(load.reached.values())
    return Sample(
        at_s=round(time.monotonic() - began_s, 1),
        held=held,
        lag_ms=load.lags.take(),
        behind={name: newest - reached for name, reached in load.reached.items()},
        keys={name: count for name in cluster.providers if (count := _keys(cluster, name)) is not None},
        disk_mb={name: _size_mb(one.files.directory) for name, one in cluster.providers.items()}
        | {"broker": _size_mb(cluster.layout.broker)},
        written=load.promises.acknowledged,
        p50_ms=round(took[len(took) // 2], 2) if took else None,
        p99_ms=round(took[int(len(took) * 0.99)], 1) if took else None,
    )


def _keys(cluster: Cluster, name: str) -> int | None:
    """None where that node does not answer now."""
    with suppress(OSError):
        text = client(cluster, name).get("/metrics").body.decode()
        found = [line for line in text.splitlines() if line.startswith("bellwether_idempotency_keys ")]
        return int(float(found[0].split()[1]))
    return None


def _size_mb(directory: Path) -> float:
    total = 0
    for where, _, files in os.walk(directory):
        for file in files:
            try:
                total += (Path(where) / file).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return round(total / 1e6, 1)


def _conclude(cluster: Cluster, load: Load) -> bool:
    """All nodes have told all, and are equal: whether that is so. What was acknowledged and is not there is counted."""
    try:
        state = wait_equal(cluster, timeout_s=END_S)
        wait_until(
            lambda: all(reached >= state["revision"] for reached in load.reached.values()),
            timeout_s=END_S,
            what="a node's event stream does not come to the end",
        )
    except (ProcessFailed, AssertionError) as error:
        print(error, file=sys.stderr)
        return False
    load.promises.conclude(list(cluster.providers))
    return True


def _arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="tests/faults/soak", description=__doc__.partition("\n")[0])
    options.add_argument("--minutes", type=float, default=120.0, help="how long (default 120)")
    options.add_argument("--rate", type=float, default=200.0, help="writes a second, over all nodes (default 200)")
    options.add_argument(
        "--keyed",
        type=float,
        default=0.5,
        help="share of the writes with an idempotency key (default 0.5). Nodes remember 100,000 keys: memory is judged "
        "from when these are full",
    )
    options.add_argument("--promote-every", type=float, default=60.0, help="seconds between promotions (default 60)")
    options.add_argument("--agents", type=int, default=2, help="agents, each with a MariaDB server (default 2)")
    options.add_argument("--out", type=Path, help="where the result goes: OUT.json, and each sample, OUT.ndjson")
    return options.parse_args()


if __name__ == "__main__":
    sys.exit(main())
