"""A whole cluster of real processes, for as long as a block lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.cluster import Cluster
from localcluster.process import ProcessFailed


@contextmanager
def running(root: Path, *, providers: int, databases: int) -> Iterator[Cluster]:
    """Starts it below `root`, ends all of it after the block. Raises `ProcessFailed` with what its members said."""
    cluster = Cluster(root, providers=providers, databases=databases)
    try:
        try:
            cluster.up()
        except ProcessFailed as error:
            error.add_note(cluster.failure_report())
            raise
        yield cluster
    finally:
        cluster.kill_all()
