"""Load from wrk, which is compiled: what is measured is the provider, not the client."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from localcluster.cluster import Cluster

LUA = Path(__file__).parent / "write.lua"


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured. Times in ms; `max_ms` is the longest that any one write took."""

    requests: int
    seconds: float
    failed: int
    connect: int
    read: int
    write: int
    timeout: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    why: str

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        """Writes that were not answered with success."""
        return self.failed + self.connect + self.read + self.write + self.timeout


class Running:
    """A wrk that runs; `result` waits for its end."""

    def __init__(
        self, cluster: Cluster, node: str, *, clients: int, seconds: int, pause_ms: int = 0, secure: bool = True
    ) -> None:
        """`secure=False` for a node that runs without TLS; see `tests.benchmarks.plain`."""
        token = cluster.layout.admin_token.read_text().strip()
        threads = min(2, clients)
        command = ["wrk", f"-t{threads}", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "-s", str(LUA)]
        # The token is visible in `ps` here: it is that of a cluster which lives for this benchmark only.
        url = cluster.providers[node].url if secure else f"http://127.0.0.1:{cluster.ports[node]}"
        command += [url, "--", token, f"bench{clients}", str(pause_ms)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def result(self) -> Load:
        """Raises `RuntimeError` with what wrk said, where it failed."""
        output, _ = self._process.communicate()
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if self._process.returncode or not lines:
            raise RuntimeError(f"wrk failed: {output}")
        return Load(**json.loads(lines[-1]))


def load(cluster: Cluster, node: str, *, clients: int, seconds: int, pause_ms: int = 0, secure: bool = True) -> Load:
    """Writes through `node` from `clients` connections for `seconds`."""
    return Running(cluster, node, clients=clients, seconds=seconds, pause_ms=pause_ms, secure=secure).result()
