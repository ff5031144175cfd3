"""What is sealed opens with the same key, for the same document, unaltered; else not at all."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.core.documents import Document
from provider.trust.vault import Unsealable, Vault, data_keys, new_private_key, public_key, unwrap, wrap
from shared.errors import Invalid

VAULT = Vault({"k1": b"k" * 32})
OTHER = Vault({"k1": b"l" * 32})


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_what_was_sealed_is_opened(text: str, context: str) -> None:
    sealed = VAULT.seal(text, context)
    assert VAULT.unseal(sealed, context) == text
    assert sealed != VAULT.seal(text, context), "the same secret twice does not look the same"
    assert sealed.isascii()
    if len(text) > 8:
        assert text not in sealed


@pytest.mark.parametrize("other", [OTHER, VAULT])
def test_it_opens_with_no_other_key_and_in_no_other_place(other: Vault) -> None:
    sealed = VAULT.seal("secret", "db1/ann")
    with pytest.raises(Unsealable):
        other.unseal(sealed, "db1/bob")
    if other is not VAULT:
        with pytest.raises(Unsealable):
            other.unseal(sealed, "db1/ann")


@given(st.integers(0, 33), st.integers(1, 255))
def test_what_was_altered_does_not_open(at: int, by: int) -> None:
    raw = bytearray(base64.b64decode(VAULT.seal("secret", "x").removeprefix("s1:k1:")))
    raw[at] ^= by
    with pytest.raises(Unsealable):
        VAULT.unseal("s1:k1:" + base64.b64encode(raw).decode(), "x")


NONSENSE = ("", "s1:", "s1:k1:", "s1:k1:AAAA", "no base64!", "s1:k1:\ud800", "s1:k2:AAAA", "s2:k1:AAAA")


@pytest.mark.parametrize("sealed", NONSENSE)
def test_what_is_no_seal_does_not_open(sealed: str) -> None:
    with pytest.raises(Unsealable):
        VAULT.unseal(sealed, "x")


def test_a_fingerprint_tells_requests_apart_and_depends_on_the_key() -> None:
    assert VAULT.fingerprint(b"a") == VAULT.fingerprint(b"a")
    assert len({VAULT.fingerprint(b"a"), VAULT.fingerprint(b"b"), OTHER.fingerprint(b"a")}) == 3


def test_the_newest_key_seals_and_older_ones_still_open() -> None:
    vault = Vault({"k9": b"9" * 32})
    old = vault.seal("secret", "x")
    before = vault.fingerprint(b"request")
    vault.add("k10", b"A" * 32)
    assert vault.seal("secret", "x").startswith("s1:k10:")
    assert vault.unseal(old, "x") == "secret"
    assert vault.fingerprint(b"request") == before, "a request that is repeated after the change is known again"


def test_a_node_opens_the_keys_that_were_wrapped_for_it_alone() -> None:
    one, two = new_private_key(), new_private_key()
    wrapped = VAULT.wrapped_for(public_key(one))
    assert unwrap(wrapped["k1"], one, "k1") == b"k" * 32
    for private, context in ((two, "k1"), (one, "k2")):
        with pytest.raises(Unsealable):
            unwrap(wrapped["k1"], private, context)
    for nonsense in ("", "AAAA", "no base64!", wrapped["k1"][:-8]):
        with pytest.raises(Unsealable):
            unwrap(nonsense, one, "k1")


def test_the_keys_in_the_state_are_found() -> None:
    private = new_private_key()
    keys = [
        Document("key", id_, 1, 1, 0, 0, {"wrapped": {name: wrap(id_.encode() * 16, public_key(private), id_)}}, {})
        for id_, name in (("k2", "p1"), ("k1", "p1"), ("k3", "p2"))
    ]
    assert data_keys(keys, "p1", private) == {"k1": b"k1" * 16, "k2": b"k2" * 16}


@pytest.mark.parametrize("public", ["", "00", "zz" * 32, "00" * 32, "00" * 31])
def test_what_is_no_public_key_gets_nothing(public: str) -> None:
    with pytest.raises(Invalid):
        wrap(b"k" * 32, public, "k1")


@pytest.mark.parametrize("private", ["", "zz" * 32, "00" * 31])
def test_a_secrets_key_that_is_none_says_so(private: str) -> None:
    with pytest.raises(Invalid, match=r"secrets\.key"):
        public_key(private)
