"""Invariant: a watcher sees every accepted change, once and in order, on any node, and wherever it resumes."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from shared.tls import client_context
from tests.support.api import Client
from tests.support.nodes import events


class Stream:
    """One open stream of changes."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.lines = self.response.getheader("content-type", "").startswith("application/x-ndjson")

    def until(self, setting: str) -> list[dict[str, Any]]:
        """The events up to the one that changes `setting`."""
        found = []
        while True:
            found.append(self._next())
            if any(change["id"] == setting for change in found[-1]["changes"]):
                return found

    def _next(self) -> dict[str, Any]:
        name = number = ""
        while True:
            line = self.response.readline().decode()
            assert line, "the stream has ended"
            if self.lines and line.strip():
                return dict(json.loads(line))
            head, _, rest = line.rstrip("\n").partition(": ")
            name, number = (rest, number) if head == "event" else (name, rest if head == "id" else number)
            if head == "data":
                event = dict(json.loads(rest))
                assert (name, number) == ("change", str(event["revision"]))
                return event


@contextmanager
def watching(node: Client, query: str = "", **headers: str) -> Iterator[Stream]:
    where = urlsplit(node.url)
    connection = http.client.HTTPSConnection(
        where.hostname or "", where.port, timeout=10, context=client_context(node.ca)
    )
    sent = {"Authorization": f"Bearer {node.token}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    try:
        connection.request("GET", f"/api/v1/events{query}", headers=sent)
        response = connection.getresponse()
        assert response.status == 200
        yield Stream(response)
    finally:
        connection.close()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_change_is_seen_as_it_happens_and_a_broken_stream_is_resumed(
    node: Client, other: Client, accept: str
) -> None:
    run, epoch = f"user.watched.{uuid4().hex[:8]}", node.read("/cluster")["epoch"]
    with watching(node, Accept=accept) as stream:
        assert stream.lines == (accept == "application/x-ndjson")
        assert stream.response.getheader("cache-control") == "no-store"
        made = other.write("PUT", f"/settings/{run}.1", {"value": "one"}).json
        seen = stream.until(f"{run}.1")[-1]
    assert seen["revision"] == made["revision"]
    assert (seen["type"], seen["epoch"]) == ("entry", epoch)
    change = next(change for change in seen["changes"] if change["id"] == f"{run}.1")
    assert (change["op"], change["kind"], change["spec"]) == ("put", "setting", {"value": "one"})
    assert change["principal"].startswith("token:")

    # Nobody watches now. What happens meanwhile is not lost, here or on another node.
    for number in (2, 3):
        other.write("PUT", f"/settings/{run}.{number}", {"value": number})
    other.write("DELETE", f"/settings/{run}.1")
    for one in (node, other):
        for query, headers in (
            ("", {"Last-Event-ID": str(seen["revision"])}),
            (f"?after={seen['revision']}", {}),
            ("?after=1000000", {"Last-Event-ID": str(seen["revision"])}),
        ):
            with watching(one, query, Accept=accept, **headers) as stream:
                resumed = [*stream.until(f"{run}.2"), *stream.until(f"{run}.3"), *stream.until(f"{run}.1")]
            revisions = [event["revision"] for event in resumed]
            assert revisions == list(range(seen["revision"] + 1, revisions[-1] + 1)), "each once, in order, no gap"
            last = next(change for change in resumed[-1]["changes"] if change["id"] == f"{run}.1")
            assert (last["op"], "spec" in last) == ("delete", False)


def test_events_can_be_read_to_the_newest_and_end_there(node: Client, other: Client) -> None:
    before = node.read("/cluster")["revision"]
    revision = other.write("PUT", f"/settings/user.{uuid4().hex}", {"value": 1}).json["revision"]
    node.read("/cluster", Bellwether_Min_Revision=str(revision))
    assert [e["revision"] for e in events(node, before)][: revision - before] == list(range(before + 1, revision + 1))
    assert events(node, 10**9) == []


def test_every_node_tells_the_same(node: Client, other: Client) -> None:
    before = node.read("/cluster")["revision"]
    for number in range(3):
        revision = (node, other, node)[number].write("PUT", f"/settings/user.same.{number}", {"value": uuid4().hex})
    newest = revision.json["revision"]
    for one in (node, other):
        one.read("/cluster", Bellwether_Min_Revision=str(newest))
    told = [[e for e in events(one, before) if e["revision"] <= newest] for one in (node, other)]
    assert told[0] == told[1]
    assert len(told[0]) >= 3


def test_all_that_was_ever_accepted_can_be_asked_for_on_any_node(node: Client, other: Client) -> None:
    """Also on a standby, which was not there yet then."""
    newest = node.read("/cluster")["revision"]
    for one in (node, other):
        one.read("/cluster", Bellwether_Min_Revision=str(newest))
        told = [event["revision"] for event in events(one, 0)]
        assert told[: newest - 1] == list(range(2, newest + 1)), "the cluster was founded with revision 1"


def test_open_streams_do_not_keep_a_node_from_its_work(node: Client, other: Client) -> None:
    setting = f"user.crowd.{uuid4().hex[:8]}"
    streams = [watching(node, Accept="application/x-ndjson") for _ in range(20)]
    opened = [stream.__enter__() for stream in streams]
    try:
        other.write("PUT", f"/settings/{setting}", {"value": 1})
        assert {stream.until(setting)[-1]["revision"] for stream in opened} == {
            node.read(f"/settings/{setting}")["revision"]
        }
    finally:
        for stream in streams:
            stream.__exit__(None, None, None)
