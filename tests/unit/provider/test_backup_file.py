"""Invariant: a backup is read as it was written, or it is said that it is damaged, or not ours: there is no third way.
And it opens for nobody but who it was made for."""

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.backup.container import PIECE_BYTES, Head, read, read_head, verify, write
from provider.backup.content import read_content
from provider.backup.recovery import Closing, ForRecovery, Opening, Passphrase, RecoveryKey
from shared.errors import Invalid, Refused

HEAD = Head("c1", "p1", "1.0", "g", 4, 17, 1_700_000_000_000, 3)
KEY = RecoveryKey.new()
FIXTURES = Path(__file__).parents[2] / "fixtures"


def made(lines: list[str], *closings: Closing) -> bytes:
    file = io.BytesIO()
    write(file, HEAD, closings or [KEY.clusters_half], lines)
    return file.getvalue()


def opened(data: bytes, with_: Opening = KEY) -> list[str]:
    return list(read(io.BytesIO(data), with_))


WHOLE = made(["first", "second"])


@given(st.lists(st.text(st.characters(blacklist_characters="\n"), max_size=50), max_size=20))
@settings(max_examples=30)
def test_what_was_written_is_read(lines: list[str]) -> None:
    assert opened(made(lines)) == lines


def test_more_than_fits_into_a_piece_is_read_and_nothing_of_it_stands_there_in_clear() -> None:
    lines = [f"{number * 2654435761 % 2**32:x} secret" for number in range(120_000)]
    data = made(lines)
    assert len(data) > 2 * PIECE_BYTES, "several pieces"
    assert opened(data) == lines
    assert b"secret" not in data


def test_the_head_can_be_read_by_anybody_and_says_whose_it_is() -> None:
    head = read_head(io.BytesIO(WHOLE))
    assert (head.cluster, head.revision, head.public()["opens_with"]) == ("c1", 17, "recovery")
    found, written = verify(io.BytesIO(WHOLE))
    assert found == head
    assert written.size_bytes == len(WHOLE)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_byte_that_is_another_is_noticed_with_and_without_the_key(where: int, change: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[where] ^= change
    with pytest.raises(Invalid):
        verify(io.BytesIO(bytes(damaged)))
    with pytest.raises((Invalid, Refused)):
        opened(bytes(damaged))


@given(st.integers(0, len(WHOLE) - 1))
def test_a_part_of_it_is_no_backup(length: int) -> None:
    with pytest.raises(Invalid):
        verify(io.BytesIO(WHOLE[:length]))
    with pytest.raises((Invalid, Refused)):
        opened(WHOLE[:length])


def test_what_follows_its_end_is_noticed() -> None:
    with pytest.raises(Invalid, match="follows"):
        verify(io.BytesIO(WHOLE + b"x"))


def test_another_head_before_the_same_pieces_does_not_open() -> None:
    line, _, rest = WHOLE.partition(b"\n")
    altered = line.replace(b'"revision":17', b'"revision":18') + b"\n" + rest[:-32]
    with pytest.raises(Invalid, match="damaged"):
        opened(altered + hashlib.sha256(altered).digest())


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"[]\n", b'{"bellwether":"x"}\n', b"\x00" * 100])
def test_something_else_is_no_backup(data: bytes) -> None:
    with pytest.raises(Invalid, match="no backup"):
        read_head(io.BytesIO(data))


def test_a_newer_format_is_told() -> None:
    with pytest.raises(Invalid, match="format '2'"):
        read_head(io.BytesIO(WHOLE.replace(b'"format":1', b'"format":2')))


def test_it_opens_for_its_own_recovery_key_alone() -> None:
    with pytest.raises(Refused, match="another recovery key"):
        opened(WHOLE, RecoveryKey.new())
    assert opened(WHOLE, RecoveryKey.parse(f"  {KEY.text()}\n")) == ["first", "second"]


def test_who_knows_the_public_half_alone_can_make_none_that_the_key_opens() -> None:
    forged = made(["a token of mine"], ForRecovery(KEY.clusters_half.public, "00" * 32))
    with pytest.raises(Refused, match="not made by the cluster"):
        opened(forged)


def test_it_opens_with_its_passphrase_and_no_other() -> None:
    phrase = Passphrase("correct horse battery")
    data = made(["x"], phrase, KEY.clusters_half)
    assert opened(data, phrase) == opened(data) == ["x"]
    with pytest.raises(Refused, match="does not open"):
        opened(data, Passphrase("incorrect horse battery"))
    with pytest.raises(Refused, match="without a passphrase"):
        opened(WHOLE, phrase)
    with pytest.raises(Refused, match="without a recovery key"):
        opened(made(["x"], phrase))


def test_a_head_that_asks_for_all_memory_is_refused() -> None:
    data = made(["x"], Passphrase("correct horse battery")).replace(b'"n":131072', b'"n":1073741824')
    with pytest.raises(Refused, match="more memory"):
        opened(data, Passphrase("correct horse battery"))


@pytest.mark.parametrize(
    "text", ["", "x", "bellwether-recovery.1.aa.bb", f"bellwether-recovery.2.{'a' * 64}.{'b' * 64}"]
)
def test_what_is_no_recovery_key_is_said_to_be_none(text: str) -> None:
    with pytest.raises(Invalid, match="recovery key"):
        RecoveryKey.parse(text)


def test_keys_are_not_shown_where_they_are_printed() -> None:
    shown = f"{KEY} {KEY.clusters_half} {Passphrase('correct horse battery')}"
    assert KEY.private not in shown
    assert KEY.secret not in shown
    assert "horse" not in shown
    with pytest.raises(Invalid, match="12 characters"):
        Passphrase("short")


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("backup-*.backup")), ids=lambda file: file.stem)
def test_a_backup_of_each_version_that_was_released_opens(file: Path) -> None:
    key = RecoveryKey.parse((FIXTURES / "backup.key").read_text())
    with file.open("rb") as source:
        content = read_content(read(source, key))
        source.seek(0)
        head, _ = verify(source)
    assert content.state.revision == head.revision
    assert sum(len(one) for one in content.state.documents.values()) == head.documents > 5
