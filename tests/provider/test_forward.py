"""Taking a request to another node: what is sure not to have been sent, and what may have been done."""

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from localcluster.process import wait_until

from provider.api import forward
from provider.api.forward import Forwarded, Forwarder, NotAnswered, NotSent

Serve = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\nbellwether-revision: 7\r\n\r\n{}"
HEADERS = {"authorization": "Bearer t", "idempotency-key": "k", "cookie": "not for others", "host": "elsewhere"}
AUTHORITY = trustme.CA()


class Server:
    """A node as this test wants it: `serve` speaks with one connection."""

    def __init__(self, serve: Serve, authority: trustme.CA = AUTHORITY) -> None:
        self._serve, self._authority = serve, authority
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> asyncio.Server:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("127.0.0.1").configure_cert(tls)
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """The next whole request."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        self.requests.append(head + await reader.readexactly(length))
        return self.requests[-1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            await self._serve(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def forwarding(
    serve: Serve, *, timeout_s: float = 5.0, authority: trustme.CA = AUTHORITY
) -> AsyncIterator[tuple[Server, Forwarder]]:
    tls = ssl.create_default_context()
    AUTHORITY.configure_trust(tls)
    server, forwarder = Server(serve, authority), Forwarder(node="p2", tls=lambda: tls, timeout_s=timeout_s)
    listening = await server.start()
    try:
        yield server, forwarder
    finally:
        await forwarder.close()
        listening.close()
        server.abort()
        await listening.wait_closed()
        await asyncio.sleep(0)


async def send(server: Server, forwarder: Forwarder, body: bytes = b"{}", **headers: str) -> Forwarded:
    return await asyncio.wait_for(
        forwarder.send(server.url, method="PUT", target="/api/v1/x?y=%20", headers=HEADERS | headers, body=body), 20.0
    )


def answering(data: bytes) -> Serve:
    """Reads requests and answers each with `data`."""

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.read(reader)
            writer.write(data)
            await writer.drain()

    return serve


def closing_after(data: bytes, *, requests: int = 1) -> Serve:
    """Reads requests, answers the last one with `data`, the others well, and closes the connection."""

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for left in range(requests, 0, -1):
            await server.read(reader)
            writer.write(OK if left > 1 else data)
            await writer.drain()

    return serve


async def hang(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.read(reader)
    await reader.read()


def test_the_answer_comes_back_with_what_belongs_to_it() -> None:
    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            assert await send(server, forwarder) == Forwarded(200, {"content-type": "application/json"}, b"{}", 7)
            head, _, body = server.requests[0].partition(b"\r\n\r\n")
            assert body == b"{}"
            assert sorted(head.decode().split("\r\n")) == sorted(
                [
                    "PUT /api/v1/x?y=%20 HTTP/1.1",
                    f"Host: {server.url.removeprefix('https://')}",
                    "Content-Length: 2",
                    "authorization: Bearer t",
                    "idempotency-key: k",
                    "Bellwether-Forwarded: p2",
                ]
            )

    asyncio.run(story())


def test_one_connection_serves_many_requests_one_after_the_other() -> None:
    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            for _ in range(3):
                await send(server, forwarder)
            assert (server.connections, len(server.requests)) == (1, 3)
            await asyncio.gather(*(send(server, forwarder) for _ in range(5)))
            assert server.connections == 5

    asyncio.run(story())


def test_a_connection_that_shows_a_replaced_certificate_is_not_used_any_more() -> None:
    """The others know a node's last two: a connection in steady use would show one from long ago."""

    def trusting() -> ssl.SSLContext:
        tls = ssl.create_default_context()
        AUTHORITY.configure_trust(tls)
        return tls

    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            for tls in (trusting(), trusting()):
                forwarder._tls = lambda tls=tls: tls
                for _ in range(3):
                    await send(server, forwarder)
            assert server.connections == 2

    asyncio.run(story())


def test_nobody_listens_nothing_was_sent() -> None:
    async def story() -> None:
        async with forwarding(hang) as (server, forwarder):
            pass
        with pytest.raises(NotSent):
            await send(server, forwarder)

    asyncio.run(story())


@pytest.mark.parametrize("url", ["https://127.0.0.1:99999", "https://127.0.0.1:x", "https://nowhere.invalid:1"])
def test_an_address_that_is_none_means_not_sent(url: str) -> None:
    async def story() -> None:
        async with forwarding(hang) as (server, forwarder):
            server.url = url
            with pytest.raises(NotSent):
                await send(server, forwarder)

    asyncio.run(story())


def test_who_is_not_certified_by_our_authority_is_sent_nothing() -> None:
    async def story() -> None:
        async with forwarding(hang, authority=trustme.CA()) as (server, forwarder):
            with pytest.raises(NotSent):
                await send(server, forwarder)
            assert server.requests == []

    asyncio.run(story())


def test_one_that_accepts_and_says_nothing_at_all_was_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even TLS: a process that is stopped. The kernel accepts for it."""
    monkeypatch.setattr(forward, "CONNECT_S", 0.2)

    async def story() -> None:
        async with forwarding(hang) as (server, forwarder):
            with socket.create_server(("127.0.0.1", 0)) as silent:
                server.url = f"https://127.0.0.1:{silent.getsockname()[1]}"
                with pytest.raises(NotSent):
                    await send(server, forwarder)

    asyncio.run(story())


def test_no_answer_in_time_may_have_been_done_and_the_late_answer_is_nobody_elses() -> None:
    async def late(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        if server.connections == 1:
            await reader.read()  # until the other side has given up
            writer.write(OK.replace(b"{}", b"no"))
        else:
            writer.write(OK)

    async def story() -> None:
        async with forwarding(late, timeout_s=0.2) as (server, forwarder):
            with pytest.raises(NotAnswered):
                await send(server, forwarder)
            assert (await send(server, forwarder)).body == b"{}"
            assert server.connections == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "only a promise"],
)
def test_a_connection_that_ends_in_an_answer_may_have_been_done(data: bytes) -> None:
    async def story() -> None:
        async with forwarding(closing_after(data)) as (server, forwarder):
            with pytest.raises(NotAnswered):
                await send(server, forwarder)
            assert len(server.requests) == 1  # it is never sent again by itself

    asyncio.run(story())


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nbellwether-revision: many\r\n\r\n{}",
        b"\x00" * 1000,
    ],
    ids=["another protocol", "no status", "no length", "no revision", "zeros"],
)
def test_an_answer_that_makes_no_sense_may_have_been_done(data: bytes) -> None:
    async def story() -> None:
        async with forwarding(answering(data)) as (server, forwarder):
            with pytest.raises(NotAnswered):
                await send(server, forwarder)
            with pytest.raises(NotAnswered):
                await send(server, forwarder)
            assert server.connections == 2  # such a connection is not used again

    asyncio.run(story())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch, *, chunked: bool) -> None:
    monkeypatch.setattr(forward, "ANSWER_MAX_BYTES", 100_000)
    whole = b"x" * 100_001
    head = b"HTTP/1.1 200 OK\r\n" + (b"transfer-encoding: chunked\r\n" if chunked else b"content-length: 100001\r\n")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole) if chunked else whole

    async def story() -> None:
        async with forwarding(answering(head + b"\r\n" + body)) as (server, forwarder):
            with pytest.raises(NotAnswered, match="larger than"):
                await send(server, forwarder)

    asyncio.run(story())


def test_what_comes_before_the_answer_is_not_the_answer() -> None:
    async def story() -> None:
        async with forwarding(answering(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)) as (server, forwarder):
            assert (await send(server, forwarder)).status == 200
            assert (await send(server, forwarder)).status == 200

    asyncio.run(story())


def test_an_answer_in_many_pieces_is_one() -> None:
    async def drip(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        for byte in OK:
            writer.write(bytes([byte]))
            await writer.drain()

    async def story() -> None:
        async with forwarding(drip) as (server, forwarder):
            assert (await send(server, forwarder)).body == b"{}"

    asyncio.run(story())


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    """The primary was restarted between two writes: the second one is not lost for it."""

    async def story() -> None:
        async with forwarding(closing_after(OK)) as (server, forwarder):
            for _ in range(3):
                assert (await send(server, forwarder)).status == 200
                await asyncio.sleep(0.05)  # the end of the connection arrives
            assert server.connections == 3

    asyncio.run(story())


def test_a_connection_that_is_closed_as_it_is_chosen_was_sent_nothing() -> None:
    """Between the choice and the sending: to wait for an answer would be to wait in vain."""

    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            await send(server, forwarder)
            chosen = await forwarder._connection(server.url)
            chosen.close()
            with pytest.raises(NotSent):
                await asyncio.wait_for(chosen.ask(b"PUT"), 1.0)

    asyncio.run(story())


def test_what_nobody_asked_for_is_not_taken_for_an_answer() -> None:
    """One request, two answers: the second must not become that of the next request."""

    async def story() -> None:
        async with forwarding(answering(OK + OK.replace(b"{}", b"no"))) as (server, forwarder):
            for _ in range(3):
                assert (await send(server, forwarder)).body == b"{}"
                await asyncio.sleep(0.02)

    asyncio.run(story())


def test_after_a_burst_connections_that_nobody_needs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            await asyncio.gather(*(send(server, forwarder) for _ in range(20)))
            assert len(forwarder._idle[server.url]) == 20
            monkeypatch.setattr(forward, "IDLE_S", 0.05)
            await asyncio.sleep(0.1)
            await send(server, forwarder)
            assert len(forwarder._idle[server.url]) == 1

    asyncio.run(story())


def test_whoever_gives_up_takes_the_connection_along() -> None:
    async def story() -> None:
        async with forwarding(hang) as (server, forwarder):
            sending = asyncio.create_task(send(server, forwarder))
            while not server.requests:
                await asyncio.sleep(0.01)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert forwarder._idle.get(server.url, []) == []

    asyncio.run(story())


def test_a_large_body_goes_through() -> None:
    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            assert (await send(server, forwarder, b"x" * 3_000_000)).status == 200
            assert len(server.requests[0]) > 3_000_000

    asyncio.run(story())


def test_a_connection_that_ended_is_gone_without_the_garbage_collector() -> None:
    """It looks seldom; and what TLS keeps beneath a connection it does not count."""

    async def story() -> None:
        async with forwarding(answering(OK)) as (server, forwarder):
            await send(server, forwarder)
            (connection,) = forwarder._idle[server.url]
            held = weakref.ref(connection)
            del connection
            await forwarder.close()
            for _ in range(100):  # turns of the loop
                await asyncio.sleep(0)
            await asyncio.to_thread(wait_until, lambda: held() is None, timeout_s=10.0, what="something holds it")

    gc.collect()
    gc.disable()
    try:
        asyncio.run(story())
    finally:
        gc.enable()
