"""Measures a whole cluster on this machine and prints a table: `tests/benchmarks/run`.

Nothing here is asserted: figures of a shared machine with two cores are for comparing within one run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from localcluster.cluster import Cluster
from localcluster.process import ProcessFailed, wait_until
from localcluster.provider import program_path

from tests.benchmarks import agents, failover, join, tls
from tests.benchmarks.bare import read_back_ms
from tests.benchmarks.lag import lag_ms
from tests.benchmarks.load import Load, Running, load

Row = tuple[str, str, str]


def main() -> None:
    options = argparse.ArgumentParser(prog="tests/benchmarks/run", description=__doc__)
    options.add_argument("--seconds", type=int, default=8, help="length of each load (default 8)")
    options.add_argument("--tls", action="store_true", help="only what TLS costs, against the same without")
    options.add_argument("--join", action="store_true", help="only a node start and a join with 100,000 documents")
    options.add_argument("--failover", action="store_true", help="only promotion after a host is gone, on three hosts")
    options.add_argument("--agents", type=int, metavar="N", help="only so many agents that follow a promotion")
    options.add_argument("--times", type=int, default=5, help="repetitions of that (default 5)")
    asked = options.parse_args()
    if asked.agents:
        print_table(agents.measure(asked.agents, _say))
        return
    if asked.failover:
        print_table(failover.measure(asked.times))
        return
    if asked.join:
        print_table(_joining())
        return
    seconds = asked.seconds
    with tempfile.TemporaryDirectory(prefix="bellwether-bench-") as directory:
        cluster = Cluster(Path(directory) / "c", providers=3, databases=0 if asked.tls else 3, tell=_say)
        try:
            if asked.tls:
                tls.with_plain_port(cluster)
            cluster.up()
            rows = tls.compare(cluster, seconds, _say) if asked.tls else measure(cluster, seconds)
        except ProcessFailed as error:
            error.add_note(cluster.failure_report())
            raise
        finally:
            cluster.down()
    print_table(rows)


def _joining() -> list[Row]:
    """A cluster of one node, which a second one joins."""
    with tempfile.TemporaryDirectory(prefix="bellwether-bench-") as directory:
        cluster = Cluster(Path(directory) / "c", providers=1, databases=0, tell=_say)
        fresh = Cluster(Path(directory) / "c", providers=2, databases=0)
        try:
            cluster.up()
            cluster.providers["p2"] = fresh.providers["p2"]
            return join.measure(cluster, _say)
        finally:
            cluster.kill_all()
            if cluster.providers["p2"].process is not None:
                cluster.providers["p2"].process.kill()


def measure(cluster: Cluster, seconds: int) -> list[Row]:
    """Every measurement, in an order in which none disturbs the next."""
    rows = memory(cluster)
    rows += commits(cluster, seconds)
    rows += lag(cluster, seconds)
    rows += planned(cluster)
    rows += unplanned(cluster)
    return rows


def memory(cluster: Cluster) -> list[Row]:
    def resident(pid: int) -> float:
        return psutil.Process(pid).memory_info().rss / 1e6

    providers = [resident(p.process.pid) for p in cluster.providers.values() if p.process is not None]
    agents = [resident(a.process.pid) for a in cluster.agents.values() if a.process is not None]
    return [
        ("provider, resident at start", f"{max(providers):.0f} MB", "≤ 120 MB"),
        ("agent, resident at start", f"{max(agents):.0f} MB", "≤ 45 MB"),
    ]


def commits(cluster: Cluster, seconds: int) -> list[Row]:
    """Latency and throughput on the primary and through a standby, beside the bare stream before and after."""
    primary, standby = _roles(cluster)
    _say("warming up …")
    for node in (primary, standby):  # write-ahead logs grow to their size, interpreters see the code for the first time
        load(cluster, node, clients=8, seconds=4)
    bare = [read_back_ms(cluster)]
    rows: list[Row] = []
    single: dict[str, Load] = {}
    for node, where in ((primary, "primary"), (standby, "a standby")):
        for clients in (1, 8, 64):
            _say(f"{clients} clients through {where} …")
            result = load(cluster, node, clients=clients, seconds=seconds)
            if clients == 1:
                single[where] = result
            rows.append(
                (f"commit, {clients:2} clients on {where}", _figures(result), "≥ 1,000/s" if clients == 64 else "")
            )
    bare.append(read_back_ms(cluster))
    floor = sum(p50 for p50, _ in bare) / len(bare)
    ratio = single["primary"].p50_ms / floor
    added = single["a standby"].p50_ms - single["primary"].p50_ms
    return [
        ("bare publish and read back, p50 / p99", " · ".join(f"{p50:.2f} / {p99:.2f} ms" for p50, p99 in bare), ""),
        ("commit p50 at one client, times bare", f"{ratio:.2f}×", "≤ 2.5×"),
        ("forwarding adds, p50 at one client", f"{added:.2f} ms", "≤ 3 ms"),
        *rows,
    ]


def lag(cluster: Cluster, seconds: int) -> list[Row]:
    primary, standby = _roles(cluster)
    _say("replication lag …")
    p50, p99, per_s = lag_ms(
        cluster, primary=primary, standby=standby, per_s=560, seconds=seconds
    )  # some less than this arrive
    return [(f"replication lag at {per_s:.0f} writes/s, p50 / p99", f"{p50:.1f} / {p99:.1f} ms", "p99 ≤ 25 ms")]


def planned(cluster: Cluster) -> list[Row]:
    """A promotion under eight busy writers on all three nodes."""
    _, standby = _roles(cluster)
    _say("planned promotion under load …")
    names = list(cluster.providers)
    running = [Running(cluster, node, clients=n, seconds=6) for node, n in zip(names, (3, 3, 2), strict=True)]
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 2, timeout_s=5, what="two seconds of load")
    took = _promote(cluster, standby)
    results = [one.result() for one in running]
    failed = sum(result.errors for result in results)
    writes = sum(result.requests for result in results)
    why = next((f" ({result.why})" for result in results if result.why), "")
    return [
        ("planned promotion under 8 writers, failed writes", f"{failed} of {writes}{why}", "0"),
        ("  longest stall of a write", f"{max(result.max_ms for result in results):.0f} ms", "≤ 500 ms"),
        ("  the command", f"{took:.2f} s", ""),
    ]


def unplanned(cluster: Cluster) -> list[Row]:
    primary, standby = _roles(cluster)
    _say("promotion after kill -9 of the primary …")
    cluster.kill(primary)
    took = _promote(cluster, standby)
    began = time.monotonic()
    answer = cluster.api(standby).request("PUT", "/settings/user.after", {"value": 1})
    write_ms = (time.monotonic() - began) * 1000
    return [
        ("promotion after kill -9, the command", f"{took:.2f} s", "≤ 1.5 s"),
        ("  the next write", f"{answer.status} in {write_ms:.0f} ms", "succeeds"),
    ]


def _promote(cluster: Cluster, node: str) -> float:
    config = cluster.providers[node].files.config
    began = time.monotonic()
    done = subprocess.run(
        [program_path("failover"), "--operation", "promote", "--config", config],
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.monotonic() - began
    for line in done.stdout.splitlines():
        _say(f"  {line}")
    if done.returncode:
        raise RuntimeError(f"promote on {node} failed: {done.stderr}")
    return took


def _roles(cluster: Cluster) -> tuple[str, str]:
    wait_until(cluster.primary, timeout_s=30, what="a primary")
    primary = cluster.primary() or ""
    return primary, next(name for name in cluster.providers if name != primary and cluster.alive(name))


def _figures(result: Load) -> str:
    errors = f", {result.errors} FAILED ({result.why})" if result.errors else ""
    return f"{result.per_s:,.0f}/s, p50 {result.p50_ms:.2f} ms, p99 {result.p99_ms:.2f} ms{errors}"


def print_table(rows: list[Row]) -> None:
    print("\n| | measured | asked |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
