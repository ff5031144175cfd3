"""What was replaced on disk is loaded, also where that failed at first."""

import ssl
import threading
from pathlib import Path

from provider.core.entries import Change
from provider.core.state import State
from provider.settings import Files
from provider.trust import pki
from provider.trust.authorities import authority_id
from provider.trust.certificates import Certificates

PATIENCE_S = 20.0


def test_a_file_that_was_replaced_is_loaded_although_that_failed_at_first(tmp_path: Path) -> None:
    files = Files(tmp_path / "provider.toml")
    ca, ca_key = pki.new_ca()
    key = pki.new_key()
    pem = pki.sign(pki.new_request(key, "p1"), "p1", ("127.0.0.1", "localhost"), ca, ca_key)
    given = pki.read_certificate(pem)
    good = {"sha256": given.sha256, "key_sha256": given.key_sha256, "authority": authority_id(ca), "expires_at": 0}
    changes = (
        Change(kind="node", id="p1", spec={"url": "https://127.0.0.1:1", "certificates": [good]}),
        Change(kind="authority", id=authority_id(ca), spec={"certificate": ca, "key": "", "signs": True}),
    )
    state = State.genesis(generation="g", primary="p1", now=1, changes=changes)
    for path, text in ((files.certificate, pem), (files.key, key), (files.ca, pki.new_ca()[0])):
        path.write_text(text)
    attempts, loaded = [0], threading.Event()

    def reload() -> None:
        attempts[0] += 1
        if attempts[0] == 1:
            raise ssl.SSLError("the disk is full, say")
        loaded.set()

    keeper = Certificates(
        node="p1",
        files=files,
        state=lambda: state,
        renew=lambda _csr, _news: pem,
        reload=reload,
        expelled=lambda: False,
        untrusting=lambda _state: [],
        sign_with=lambda _id: None,
        current=lambda: True,
    )
    keeper.start()
    try:
        assert loaded.wait(PATIENCE_S)
        assert files.ca.read_text() == ca
    finally:
        keeper.stop()
