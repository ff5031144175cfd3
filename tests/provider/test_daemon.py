"""How a provider's process ends. It has no broker here: it serves reads all the same."""

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from provider.founding import Place
from shared.tls import client_context
from tests.support.daemons import founded, running

PATIENCE_S = 20.0
UNLUCKY = """
from provider.cli.node import main
from provider.janitor import Janitor
def fail(self): raise KeyError("a bug")
Janitor._run = fail
main()
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A cluster of one node, whose broker does not answer."""
    return founded(tmp_path)


@pytest.fixture
def process(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    with running(place) as daemon:
        yield daemon


@contextmanager
def event_stream(place: Place) -> Iterator[http.client.HTTPResponse]:
    """An event stream of the node, as soon as it answers."""
    token = (place.config.parent / "admin.token").read_text()
    tls = client_context(place.files.ca)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        connection = http.client.HTTPSConnection(place.url.removeprefix("https://"), context=tls, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {token}"})
        except OSError:
            connection.close()
            assert time.monotonic() < deadline, (place.config.parent / "log").read_text()
            time.sleep(0.05)  # a process that starts has no event for us
            continue
        with closing(connection), connection.getresponse() as stream:
            yield stream
        return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_cleanly_although_a_client_watches(
    place: Place, process: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    with event_stream(place) as stream:
        assert stream.readline().startswith(b": from revision 1")
        process.send_signal(number)
        rest = stream.read()  # it has a proper end
    assert process.wait(PATIENCE_S) == 0
    log = (place.config.parent / "log").read_text()
    assert rest.strip() == b""
    assert "provider ends" in log
    assert "ERROR" not in log
    assert "graceful shutdown exceeded" not in log, "it waited for the stream"


def test_a_watcher_that_leaves_makes_room_for_another(place: Place) -> None:
    with place.config.open("a") as file:
        file.write("streams_max = 1\n")  # of [api], which is last
    with running(place):
        with event_stream(place) as first:
            assert first.status == 200
            assert first.readline().startswith(b": from")
            with event_stream(place) as second:
                assert second.status == 429
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with event_stream(place) as third:
                if third.status == 200:
                    break
            assert time.monotonic() < deadline, "who has left is still counted"


def test_a_thread_that_fails_takes_the_node_with_it(place: Place) -> None:
    """What is left would look healthy. Invariant: no thread dies without a word."""
    command = [sys.executable, "-c", UNLUCKY, "run", "--config", str(place.config)]
    daemon = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert daemon.returncode == 1
    assert "CRITICAL a thread failed" in daemon.stderr
    assert "provider ends" in daemon.stderr
    last = daemon.stderr.splitlines()[-1]
    assert last == "error: the thread janitor failed, and this node with it: KeyError('a bug')"
