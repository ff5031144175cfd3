"""A provider's real process, without a broker: it serves reads all the same."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.ports import free_ports

from provider.founding import Place, init

AS_IT_IS = "from provider.cli.node import main; main()"


def founded(directory: Path, **api: object) -> Place:
    """A cluster of one node, whose broker does not answer. `api` are settings of `[api]`; `admin.token` lies beside."""
    port, nobody = free_ports(2)
    place = Place(directory / "provider.toml", "p1", f"https://127.0.0.1:{port}")
    broker = {"endpoints": [f"amqps://127.0.0.1:{nobody}"], "username": "bellwether", "management": None}
    token = init(place, broker, "secret")
    (directory / "admin.token").write_text(token)
    with place.config.open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in api.items())  # `[api]` is the last table
    return place


@contextmanager
def running(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon within this block. What it says is in `log` beside its configuration."""
    command = [sys.executable, "-c", AS_IT_IS, "run", "--config", str(place.config)]
    with (place.config.parent / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()
