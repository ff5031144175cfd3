"""A stand-in for S3-compatible storage: as much of its protocol as backups use, on 127.0.0.1, in memory.

It is no proof that a real storage takes what boto3 sends; that is boto3's. It shows what the adapter asks for, and what
it makes of answers. As most storages that are not Amazon's, it does not know Amazon's newer checksums.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"


class Storage(ThreadingHTTPServer):
    """`objects` by path (`/bucket/key`); `full` refuses what is sent, `torn` ends what is fetched halfway."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.buckets = {"backups"}
        self.full = self.torn = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def storage() -> Iterator[Storage]:
    """One with the bucket `backups`, for as long as the block lasts."""
    server = Storage()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Storage

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_PUT(self) -> None:
        body = self._body()
        if "aws-chunked" in self.headers.get("Content-Encoding", "") or "x-amz-sdk-checksum-algorithm" in self.headers:
            self._say(501, _error("NotImplemented", "a header implies functionality that is not implemented"))
        elif self.server.full:
            self._say(507, _error("QuotaExceeded", "the storage is full"))
        elif self._known():
            self.server.objects[self._path] = body
            self._say(200, b"", ETag='"x"')

    def do_GET(self) -> None:
        if not self._known():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
        elif self._path in self.server.objects:
            self._say(200, self.server.objects[self._path], ETag='"x"')
        else:
            self._say(404, _error("NoSuchKey", "no such object"))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._path, None)
        self._say(204, b"")

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _known(self) -> bool:
        if self._path.split("/")[1] in self.server.buckets:
            return True
        self._say(404, _error("NoSuchBucket", "The specified bucket does not exist"))
        return False

    def _list(self, prefix: str) -> None:
        bucket = f"{self._path.rstrip('/')}/"
        found = sorted(one for one in self.server.objects if one.startswith(bucket + prefix))
        items = "".join(
            f"<Contents><Key>{escape(one.removeprefix(bucket))}</Key><Size>{len(self.server.objects[one])}</Size></Contents>"
            for one in found
        )
        self._say(200, f'<ListBucketResult xmlns="{_XMLNS}"><IsTruncated>false</IsTruncated>{items}</ListBucketResult>')

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _say(self, status: int, body: bytes | str, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET" and self.server.torn and "ETag" in headers:
            self.close_connection = True
            self.wfile.write(content[: len(content) // 2])
        elif self.command != "HEAD":
            self.wfile.write(content)


def _error(code: str, message: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
