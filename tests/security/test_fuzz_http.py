"""Invariant: whatever an answer or a header holds, a node goes on: an answer is taken or refused as `NotAnswered`, a
header is understood or refused with the error that names it."""

import asyncio
import tracemalloc
from collections.abc import Iterator

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from provider.api import forward, reads, writes
from provider.api.access import auth
from provider.api.routes.events import _start
from provider.core.state import State
from shared.errors import BellwetherError
from tests.support.fuzzing import effort, spoilt

# ── the primary's answer ─────────────────────────────────────────────────────────────────────────────────────────────

ANSWERS = [
    b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\netag: "3"\r\nbellwether-revision: 7\r\n\r\n{}',
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nbellwether-revision: 7\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\x00\x01",
    b"HTTP/1.0 503 Busy\r\nconnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nbellwether-revision: -9999999999999999999999\r\n\r\n",
]


class Transport(asyncio.Transport):
    closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def answered(data: bytes, pieces: int) -> forward.Forwarded | None:
    """What a connection makes of `data`; None where it gives up as documented."""
    connection, transport = forward._Connection(), Transport()
    connection.connection_made(transport)
    asking = asyncio.ensure_future(connection.ask(b"x"))
    await asyncio.sleep(0)
    step = max(1, len(data) // pieces)
    for at in range(0, len(data), step):
        if transport.closed:
            break
        connection.data_received(data[at : at + step])
    connection.connection_lost(None)
    try:
        return await asking
    except forward.NotAnswered:
        return None


@effort(400)
@given(st.sampled_from(ANSWERS).flatmap(spoilt).flatmap(spoilt), st.integers(1, 20))
def test_an_answer_is_taken_or_it_is_none(data: bytes, pieces: int) -> None:
    answer = asyncio.run(answered(data, pieces))
    if answer is not None:
        assert 200 <= answer.status < 1000
        assert 0 <= answer.revision < 2**63


@pytest.mark.parametrize("whole", ANSWERS[:2])
def test_a_good_one_is_taken(whole: bytes) -> None:
    answer = asyncio.run(answered(whole, 3))
    assert answer is not None
    assert (answer.status, answer.body, answer.revision) == (200, b"{}", 7)


def endless(kind: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n" if kind == "headers" else b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for number in range(64):
        match kind:
            case "headers":
                yield b"".join(b"x-%d-%d: %s\r\n" % (number, i, b"a" * 1000) for i in range(1000))
            case "one header":
                yield b"x-long: " if number == 0 else b"a" * 1_000_000
            case _:
                yield b"f4240\r\n" + b"a" * 1_000_000 + b"\r\n"


@pytest.mark.parametrize("kind", ["headers", "one header", "body"])
def test_an_answer_without_an_end_takes_little(kind: str) -> None:
    async def ask() -> None:
        connection, transport = forward._Connection(), Transport()
        connection.connection_made(transport)
        asking = asyncio.ensure_future(connection.ask(b"x"))
        await asyncio.sleep(0)
        for piece in endless(kind):
            connection.data_received(piece)
            if transport.closed:
                break
        assert transport.closed, "it would read for ever"
        with pytest.raises(forward.NotAnswered):
            await asking

    tracemalloc.start()
    try:
        asyncio.run(ask())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * forward.ANSWER_MAX_BYTES


# ── headers and parameters ───────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = st.sampled_from([
    "", "0", "1", "-1", "1.5", "1e9", "1e999", "nan", "inf", "-inf", "9" * 18, "9" * 19, "9" * 5000, "0" * 5000 + "7",
    "000000001" + "9" * 20, "000000001" + "9" * 5000, "²", "٣", "１", "0x10", "1_000", " 5 ", "5\n", "+5", "\x00",
    "W/\"3\"", '"3"', "*", "true",
]) | st.text(max_size=10)  # fmt: skip
STATE = State.genesis(generation="g", primary="p1", now=1)


def asked(query: dict[str, str], headers: dict[str, str]) -> Request:
    from urllib.parse import urlencode

    raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return Request({"type": "http", "query_string": urlencode(query, errors="surrogatepass").encode(), "headers": raw})


def refused_or(read, *arguments):  # type: ignore[no-untyped-def]
    try:
        return read(*arguments)
    except BellwetherError as error:
        assert error.status in (401, 412, 422), error
        assert len(error.detail) < 500
        return None


@effort(500)
@given(NUMBERS)
def test_headers_and_parameters(value: str) -> None:
    request = asked(
        {"limit": value, "after": value, "drop": value, "state": value}, {"Last-Event-ID": value, "Accept": value}
    )
    limit = refused_or(reads.paging, request)
    assert limit is None or 1 <= limit[0] <= reads.LIMIT_MAX
    refused_or(reads.flag, request, "drop")
    refused_or(reads.choice, request, "state", ("up", "down"))
    start = refused_or(_start, request, 5)
    assert start is None or 0 <= start < 2**63
    header = value.encode("latin-1", "replace").decode("latin-1")
    refused_or(reads._number, "Bellwether-Wait", header, 5.0)
    refused_or(writes.precondition, {"if-match": header, "if-none-match": header})
    refused_or(writes._key, header)
    refused_or(auth.bearer, header)
    refused_or(auth.bearer, f"Bearer {header}")
