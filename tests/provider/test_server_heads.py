"""Requests that two readers could understand differently. Invariant: whoever stands before the server (a proxy, another
node) and the server itself see the same request, or it is refused."""

from collections.abc import Iterator

import pytest

from tests.support.http_server import Served, answered, ask, ended, problem, serving, told

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server")) as served:
        yield served


REFUSED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": HEAD + b"Host: y\r\n\r\n",
    "the same host twice": HEAD + b"host: x\r\n\r\n",
    "a host that is none": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "two lengths": PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "the same length twice": PUT + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "two lengths in one": PUT + b"Content-Length: 1, 1\r\n\r\na",
    "a signed length": PUT + b"Content-Length: +1\r\n\r\na",
    "a length in hex": PUT + b"Content-Length: 0x1\r\n\r\na",
    "a length beyond all": PUT + b"Content-Length: 99999999999999999999\r\n\r\na",
    "length and chunks": PUT + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "chunked twice": PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two encodings": PUT + b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "compressed": PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another encoding": PUT + b"Transfer-Encoding: identity\r\n\r\n",
    "chunks in 1.0": b"PUT / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": PUT + b"Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
    "two tokens": HEAD + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "two keys": PUT + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n",
    "two conditions": b'PUT / HTTP/1.1\r\nHost: x\r\nIf-Match: "1"\r\nIf-Match: "2"\r\n\r\n',
    "two cookies": HEAD + b"Cookie: a=1\r\nCookie: a=2\r\n\r\n",
    "forwarded twice": HEAD + b"Bellwether-Forwarded: a\r\nBellwether-Forwarded: b\r\n\r\n",
    "one of ours with underscores": HEAD + b"Bellwether_Forwarded: p2\r\n\r\n",
    "a length with underscores": PUT + b"Content_Length: 1\r\n\r\n",
    "a folded line": HEAD + b"X: a\r\n b\r\n\r\n",
    "a folded first line": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "a space before the colon": HEAD + b"Authorization : Bearer a\r\n\r\n",
    "a name with a space": HEAD + b"X Y: a\r\n\r\n",
    "no name": HEAD + b": a\r\n\r\n",
    "no colon": HEAD + b"X\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\x00b\r\n\r\n",
    "NUL in a name": HEAD + b"X\x00Y: a\r\n\r\n",
    "a bare CR in a value": HEAD + b"X: a\rb\r\n\r\n",
    "a whole address": b"GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "another host's address": b"GET http://y/api/v1/cluster HTTP/1.1\r\nHost: x\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
    "no slash": b"GET api HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fragment": b"GET /x#y HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"GET /x y HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the target": b"GET /x\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare UTF-8 in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/2.0 in words": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "an unknown method": b"GRAB / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "trailers": PUT + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nAuthorization: c\r\n\r\n",
    "no HTTP": b"\x00\x01\x02\x03" * 30,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_two_readers_could_understand_differently_is_refused(server: Served, what: str) -> None:
    problem(told(server, REFUSED[what]), 400, "invalid")


def test_what_is_odd_but_means_one_thing_is_served(server: Served) -> None:
    for target in ("//api/v1", "/a/../b", "/a;b=c", "/%2e%2e/x", "/x?y=%00&z=a/b?c", "/" + "x" * 20_000):
        with server.connect() as connection:
            seen = ask(connection, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        path, _, query = target.partition("?")
        assert (seen["path"].replace("..", "%2e%2e"), seen["query"]) == (path.replace("..", "%2e%2e"), query)
    with server.connect() as connection:
        seen = ask(connection, b"\r\nGET / HTTP/1.1\r\nHost:\r\nX_Y: 1\r\nEmpty:\r\nA: \xe9\r\n\r\n")
        assert seen["headers"] == [["host", ""], ["x_y", "1"], ["empty", ""], ["a", "é"]]
        seen = ask(connection, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 002\r\n\r\nab")
        assert seen["body"] == 2


def test_http_1_0_is_answered_and_the_connection_ends(server: Served) -> None:
    for head in (b"GET /api/leader-check HTTP/1.0\r\n\r\n", b"GET /api/leader-check HTTP/1.0\r\nHost: x\r\n\r\n"):
        with server.connect() as connection:
            assert ask(connection, head)["path"] == "/api/leader-check"
            assert ended(connection)


def test_head_is_answered_without_a_body(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = answered(connection, "HEAD")
        assert int(said.headers["content-length"]) > 0
        assert ask(connection)["method"] == "GET"


@pytest.mark.parametrize("together", [True, False])
def test_who_sends_the_next_request_too_early_gets_the_first_answer_alone(server: Served, *, together: bool) -> None:
    first, second = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as connection:
        if together:
            connection.sendall(first + second * 1000)
        else:
            connection.sendall(first)
            connection.sendall(second)
        said = answered(connection)
        assert said.json["path"] == "/slow"
        assert said.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_header_behind_a_body_does_not_become_one_of_the_next_request(server: Served) -> None:
    """Behind a proxy the next request is another client's."""
    with server.connect() as connection:
        head = b"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\nx\r\n0\r\nAuthorization: Bearer stolen\r\n\r\n")
        problem(answered(connection), 400, "invalid")
        assert ended(connection)
