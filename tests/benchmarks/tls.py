"""What TLS costs a commit: `tests/benchmarks/run --tls`. The same cluster, by turns as it is shipped (HTTPS, mutual TLS
between nodes, AMQPS) and without any of it; asked: within 15 %."""

import dataclasses
import http.client
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from localcluster.cluster import Cluster
from localcluster.ports import free_ports
from localcluster.process import environment, start, wait_until

from tests.benchmarks.load import Load, load

ROOT = Path(__file__).parents[2]
ROUNDS = 5
WARM_UP_S = 3
MEASUREMENTS = (
    ("1 client on the primary", "primary", 1),
    ("64 clients on the primary", "primary", 64),
    ("64 clients on a standby", "standby", 64),
)


def with_plain_port(cluster: Cluster) -> None:
    """Before `up`: the broker listens without TLS, too."""
    cluster.broker.ports = dataclasses.replace(cluster.broker.ports, plain=free_ports(1)[0])


def compare(cluster: Cluster, seconds: int, say: Callable[[str], None]) -> list[tuple[str, str, str]]:
    """Rows of a table. The order within a round alternates, so that what drifts does not count for one of them."""
    found: dict[tuple[str, bool], list[Load]] = {}
    for number in range(ROUNDS):
        for secure in (True, False) if number % 2 == 0 else (False, True):
            restart(cluster, secure=secure)
            roles = dict(zip(("primary", "standby"), by_role(cluster, secure=secure), strict=True))
            for node in roles.values():
                load(cluster, node, clients=8, seconds=WARM_UP_S, secure=secure)
            for what, where, clients in MEASUREMENTS:
                result = load(cluster, roles[where], clients=clients, seconds=seconds, secure=secure)
                found.setdefault((what, secure), []).append(result)
                told = f"{result.per_s:,.0f}/s, p50 {result.p50_ms:.2f} ms, {result.errors} failed"
                say(f"round {number + 1}, {'TLS' if secure else 'none'}, {what}: {told}")
    return [row(what, clients, found[what, True], found[what, False]) for what, _, clients in MEASUREMENTS]


def row(what: str, clients: int, secure: list[Load], plain: list[Load]) -> tuple[str, str, str]:
    """The medians, and by how much TLS is worse: more time for one client, fewer writes for many."""
    if clients == 1:
        with_tls, without = (statistics.median(one.p50_ms for one in runs) for runs in (secure, plain))
        figures = f"{with_tls:.2f} / {without:.2f} ms: {with_tls / without - 1:+.0%}"
        return (f"{what}, p50 with TLS / without", figures, "≤ +15 %")
    with_tls, without = (statistics.median(one.per_s for one in runs) for runs in (secure, plain))
    figures = f"{with_tls:,.0f} / {without:,.0f} per s: {with_tls / without - 1:+.0%}"
    return (f"{what}, throughput with TLS / without", figures, "≥ −15 %")


def restart(cluster: Cluster, *, secure: bool) -> None:
    """All providers anew, with or without TLS."""
    for provider in cluster.providers.values():
        if provider.process is not None:
            provider.process.stop()
    for provider in cluster.providers.values():
        if secure:
            provider.launch()
            continue
        command: list[str | Path] = [sys.executable, "-m", "tests.benchmarks.plain", provider.files.config]
        provider.process = start(
            [*command, cluster.broker.plain_endpoint],
            log=provider.log,
            env=environment(provider.user, PYTHONPATH=str(ROOT)),
            user=provider.user,
        )
    for name in cluster.providers:
        wait_until(
            lambda name=name: status(cluster, name, "/health/ready", secure=secure) == 200,  # type: ignore[misc]
            timeout_s=60,
            what=f"{name} is ready",
        )


def by_role(cluster: Cluster, *, secure: bool) -> tuple[str, str]:
    """The primary, once it works, and a standby."""
    leading: list[str] = []

    def known() -> bool:
        leading[:] = [n for n in cluster.providers if status(cluster, n, "/health/primary", secure=secure) == 200]
        return bool(leading)

    wait_until(known, timeout_s=30, what="a primary")
    return leading[0], next(name for name in cluster.providers if name != leading[0])


def status(cluster: Cluster, name: str, path: str, *, secure: bool) -> int | None:
    if secure:
        return cluster.api(name).get(path).status if cluster.api(name).is_up("/health/live") else None
    connection = http.client.HTTPConnection("127.0.0.1", cluster.ports[name], timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
