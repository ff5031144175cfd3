"""What is sealed opens with the same key, for the same document, unaltered; else not at all."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.secrets import Unsealable, Vault

VAULT = Vault(b"k" * 32)


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_what_was_sealed_is_opened(text: str, context: str) -> None:
    sealed = VAULT.seal(text, context)
    assert VAULT.unseal(sealed, context) == text
    assert sealed != VAULT.seal(text, context), "the same secret twice does not look the same"
    assert sealed.isascii()
    if len(text) > 8:
        assert text not in sealed


@pytest.mark.parametrize("other", [Vault(b"l" * 32), VAULT])
def test_it_opens_with_no_other_key_and_in_no_other_place(other: Vault) -> None:
    sealed = VAULT.seal("secret", "db1/ann")
    with pytest.raises(Unsealable):
        other.unseal(sealed, "db1/bob")
    if other is not VAULT:
        with pytest.raises(Unsealable):
            other.unseal(sealed, "db1/ann")


@given(st.integers(0, 33), st.integers(1, 255))
def test_what_was_altered_does_not_open(at: int, by: int) -> None:
    raw = bytearray(base64.b64decode(VAULT.seal("secret", "x").removeprefix("s1:")))
    raw[at] ^= by
    with pytest.raises(Unsealable):
        VAULT.unseal("s1:" + base64.b64encode(raw).decode(), "x")


@pytest.mark.parametrize("sealed", ["", "s1:", "s1:AAAA", "no base64!", "s1:" + "A" * 15, "\ud800", "s2:" + "A" * 64])
def test_what_is_no_seal_does_not_open(sealed: str) -> None:
    with pytest.raises(Unsealable):
        VAULT.unseal(sealed, "x")


def test_a_fingerprint_tells_requests_apart_and_depends_on_the_key() -> None:
    assert VAULT.fingerprint(b"a") == VAULT.fingerprint(b"a")
    assert len({VAULT.fingerprint(b"a"), VAULT.fingerprint(b"b"), Vault(b"l" * 32).fingerprint(b"a")}) == 3


def test_a_new_key_serves(tmp_path: Path) -> None:
    (tmp_path / "secrets.key").write_text(Vault.new_key() + "\n")
    one, two = Vault.from_file(tmp_path / "secrets.key"), Vault.from_file(tmp_path / "secrets.key")
    assert two.unseal(one.seal("secret", "x"), "x") == "secret"
    assert Vault.new_key() != Vault.new_key()
