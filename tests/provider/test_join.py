"""What a newcomer believes before it has joined: the authority that its token names, and nothing sent along with it."""

import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from provider.founding import Place
from provider.joining.join import join
from provider.joining.meeting import trusted_ca
from provider.trust import pki
from shared.errors import BellwetherError, Refused
from shared.tls import fingerprint
from shared.tokens import new_token

REAL, _ = pki.new_ca("Bellwether real")


@dataclass
class Impostor:
    """Serves with an authority of its own; `ca` is what it says at /ca. `asked` is what came."""

    url: str
    own: str
    ca: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    found = Impostor("", authority.cert_pem.bytes().decode())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers.get("Authorization")))
            data = found.ca.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("behind", [True, False])
def test_an_authority_that_is_sent_beside_the_pinned_one_gets_no_token(
    impostor: Impostor, tmp_path: Path, behind: bool
) -> None:
    impostor.ca = REAL + impostor.own if behind else impostor.own + REAL
    token = new_token("node", fingerprint(REAL))
    place = Place(tmp_path / "p2" / "provider.toml", "p2", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    with pytest.raises(BellwetherError):
        join(place, impostor.url, token.text())
    assert {path for path, _ in impostor.asked} <= {"/api/v1/ca", "/api/v1/health/live"}
    assert all(shown is None for _, shown in impostor.asked), "it was shown the token"


def test_a_provider_of_another_cluster_is_refused(impostor: Impostor) -> None:
    impostor.ca = impostor.own
    with pytest.raises(Refused, match="not of the cluster"):
        trusted_ca(impostor.url, fingerprint(REAL))
    impostor.ca = "rubbish"
    with pytest.raises(Refused, match="does not answer like a provider"):
        trusted_ca(impostor.url, fingerprint(REAL))
