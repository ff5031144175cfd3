"""Invariant: a node says that nothing was done only where it knows: not of a write that it has sent to a primary who
did not answer, whatever it learns afterwards."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from localcluster.process import wait_until

from provider.core.commands.base import Plan
from provider.core.entries import Change, Claim, encode
from provider.core.state import State
from tests.support.apis import ApiNode, Said

REFUSED = b'{"code": "log_unavailable", "detail": "nothing was done", "retryable": true}'


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[ApiNode]:
    with ApiNode(tmp_path) as node:
        yield node


@dataclass
class Primary:
    """One that takes a request and breaks the connection instead of answering. What it says to those after it is in
    `then`; None: nobody listens any more."""

    node: ApiNode
    then: bytes | None
    requests: list[bytes] = field(default_factory=list)
    server: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        self.requests.append(head + await reader.readexactly(length))
        if len(self.requests) == 1 and self.then is None and self.server is not None:
            self.server.close()
        if len(self.requests) > 1 and self.then is not None:
            answer = b"HTTP/1.1 503 No\r\ncontent-type: application/problem+json\r\nbellwether-revision: 1\r\n"
            writer.write(answer + b"content-length: %d\r\n\r\n" % len(self.then) + self.then)
            await writer.drain()
        writer.transport.abort() if len(self.requests) == 1 else writer.close()


@asynccontextmanager
async def leading(node: ApiNode, then: bytes | None) -> AsyncIterator[Primary]:
    """A member that is the primary, with a certificate as members have."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(node.files.certificate, node.files.key)
    primary = Primary(node, then)
    primary.server = await asyncio.start_server(primary.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield primary
    finally:
        primary.server.close()


class Member:
    """Makes `p9` a member, at this address."""

    def __init__(self, url: str) -> None:
        self._spec = {"url": url, "version": "1", "endpoints": ["amqps://127.0.0.1:1"]}

    def plan(self, _state: State, _now: int) -> Plan:
        return Plan(201, ("node", "p9"), (Change(kind="node", id="p9", spec=self._spec),))


def follow(node: ApiNode, url: str) -> None:
    """From now on `p9`, at this address, is primary."""
    node.commit(Member(url))
    node.host.log.append(encode(claim(node, "p9")), "somebody else's", 5.0)
    wait_until(lambda: node.state.primary == "p9", timeout_s=20, what="the claim is not read")


def claim(node: ApiNode, name: str) -> Claim:
    """Of that member, which ends the epoch that `node` knows."""
    state = node.state
    return Claim(id=f"claim {state.epoch}", generation=state.generation, ends=state.epoch, node=name, at=state.now)


def write(node: ApiNode, then: bytes | None) -> tuple[Said, list[bytes]]:
    """A write with a key that the primary takes and does not answer. What the client is told, and what was sent."""
    context = leading(node, then)
    primary = node.run(context.__aenter__())
    try:
        assert primary.server is not None
        follow(node, f"https://127.0.0.1:{primary.server.sockets[0].getsockname()[1]}")
        said = node.ask("PUT", "/settings/user.x", {"value": 1}, headers={"Idempotency-Key": "k"})
    finally:
        node.run(context.__aexit__(None, None, None))
    return said, primary.requests


def test_a_primary_that_is_gone_before_it_answers_may_have_done_it(standby: ApiNode) -> None:
    said, requests = write(standby, None)
    assert len(requests) == 1
    assert (said.status, said.code) == (504, "outcome_unknown")


def test_a_primary_that_breaks_off_and_then_refuses_may_have_done_it_the_first_time(standby: ApiNode) -> None:
    said, requests = write(standby, REFUSED)
    assert len(requests) == 2
    assert (said.status, said.code) == (504, "outcome_unknown")


def test_who_takes_it_himself_meanwhile_and_is_deposed_does_not_know_it_any_better(standby: ApiNode) -> None:
    context = leading(standby, None)
    primary, stream = standby.run(context.__aenter__()), standby.host.stream
    try:
        assert primary.server is not None
        follow(standby, f"https://127.0.0.1:{primary.server.sockets[0].getsockname()[1]}")
        standby.host.log.shut()
        with ThreadPoolExecutor(1) as pool:
            headers = {"Idempotency-Key": "k"}
            asked = pool.submit(lambda: standby.ask("PUT", "/settings/user.x", {"value": 1}, headers=headers))
            wait_until(lambda: bool(primary.requests), timeout_s=20, what="it is not taken to the primary")
            appended = standby.host.log.appended
            stream.append(encode(claim(standby, standby.name)))
            wait_until(lambda: standby.host.log.appended > appended, timeout_s=20, what="it does not take it itself")
            stream.append(encode(claim(standby, "p9")))
            said = asked.result()
    finally:
        standby.host.log.open()
        standby.run(context.__aexit__(None, None, None))
    assert (said.status, said.code) == (504, "outcome_unknown"), said
