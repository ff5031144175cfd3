"""A backup's file. What is in it is the business of `content`.

    {"bellwether": "backup", "format": 1, …, "openers": […]} LF    the head: JSON that anybody may read
    <length: 4 bytes, big endian> <that many bytes>                 pieces of the content, compressed, AES-256-GCM
    …
    <0: 4 bytes> <32 bytes>                                         the end: SHA-256 of all before these 32 bytes

The content is lines of text. Piece number n is sealed with the nonce n (11 bytes, big endian) and one byte more, 1 for
the last piece; and for the head as it stands (its SHA-256 is what is authenticated along). So a file that was cut off,
put together from others, or given another head does not open. The checksum needs no key: anybody can see whether a
copy is whole.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from provider.backup.recovery import Closing, Opener, Opening
from provider.core.documents import canonical
from shared.errors import Invalid

FORMAT = 1
PIECE_BYTES = 256 * 1024
"""Of compressed content. One is held in memory at a time."""
HEAD_MAX_BYTES = 64 * 1024
_PIECE_MAX_BYTES = PIECE_BYTES + 1024
_LINES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Head:
    """What anybody may know of a backup. `at` is when it was made, Unix ms by the clock of `node`."""

    cluster: str
    node: str
    """That made it."""
    version: str
    """Of the program."""
    generation: str
    epoch: int
    revision: int
    at: int
    documents: int
    openers: tuple[Opener, ...] = field(default=(), repr=False)

    def line(self) -> bytes:
        said = asdict(self) | {"openers": [dict(one) for one in self.openers]}
        return canonical({"bellwether": "backup", "format": FORMAT, **said}).encode() + b"\n"

    def public(self) -> dict[str, Any]:
        """For people and programs; without what only opens it."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "openers"}
        return said | {"opens_with": ", ".join(str(one.get("kind")) for one in self.openers)}

    @classmethod
    def parse(cls, line: bytes) -> "Head":
        """Raises `Invalid` for what is no head, or of a newer format."""
        try:
            content = json.loads(line)
            what, format_ = content.pop("bellwether"), content.pop("format")
        except (ValueError, AttributeError, KeyError, TypeError):
            raise Invalid("this is no backup of Bellwether") from None
        if what != "backup" or format_ != FORMAT:
            raise Invalid(f"this backup has format {str(format_)[:20]!r}; this program reads {FORMAT}")
        return cls._checked(content)

    @classmethod
    def _checked(cls, content: dict[str, Any]) -> "Head":
        types = {one.name: one.type for one in fields(cls)}
        for name in set(types) - {"openers"}:
            if type(content.get(name)) is not (int if name in ("epoch", "revision", "at", "documents") else str):
                raise Invalid(f"the backup's head is damaged: {name}")
        openers = content.get("openers")
        if not isinstance(openers, list) or not all(isinstance(one, dict) for one in openers):
            raise Invalid("the backup's head is damaged: openers")
        return cls(**{name: content[name] for name in types if name != "openers"}, openers=tuple(openers))


@dataclass(frozen=True, slots=True)
class Written:
    """`sha256` is of the whole file, hex: what `sha256sum` prints."""

    size_bytes: int
    sha256: str


class _Summed:
    """Writes or reads, counts, and keeps the checksum of all that went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sum = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._took(data)

    def read(self, size: int) -> bytes:
        """Raises `Invalid` where so much is not there."""
        data = self._file.read(size)
        if len(data) != size:
            raise Invalid("the backup breaks off: this is not all of it")
        self._took(data)
        return data

    def line(self) -> bytes:
        data = self._file.readline(HEAD_MAX_BYTES)
        self._took(data)
        return data

    def end(self) -> None:
        """Raises `Invalid` unless the checksum follows, and nothing else."""
        expected = self.sum.digest()
        if self.read(32) != expected:
            raise Invalid("the backup's checksum is wrong: this copy is damaged")
        if self._file.read(1):
            raise Invalid("something follows the backup's end: this copy is damaged")

    def _took(self, data: bytes) -> None:
        self.sum.update(data)
        self.count += len(data)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(file: BinaryIO, head: Head, closings: Sequence[Closing], lines: Iterable[str]) -> Written:
    """Writes a whole backup to `file`: `lines` (without line ends), for all of `closings`. Raises `OSError`."""
    key = AESGCM.generate_key(256)
    line = Head(**{**{f.name: getattr(head, f.name) for f in fields(head)}, "openers": _closed(key, closings)}).line()
    if len(line) > HEAD_MAX_BYTES:
        raise Invalid("the backup's head is too long: too many openers")
    out = _Summed(file)
    out.write(line)
    cipher, bound = AESGCM(key), hashlib.sha256(line).digest()
    for number, (piece, last) in enumerate(_with_last(_pieces(lines))):
        sealed = cipher.encrypt(_nonce(number, last), piece, bound)
        out.write(len(sealed).to_bytes(4, "big") + sealed)
    out.write(bytes(4))
    out.write(out.sum.digest())
    return Written(out.count, out.sum.hexdigest())


def _closed(key: bytes, closings: Sequence[Closing]) -> tuple[Opener, ...]:
    if not closings:
        raise Invalid("a backup that nobody could open is none: give a recovery key or a passphrase")
    return tuple(closing.close(key) for closing in closings)


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines, compressed, in pieces of one size; the last one may be shorter, also empty."""
    squeeze, held = zlib.compressobj(6), b""
    for text in _together(lines):
        held += squeeze.compress(text)
        while len(held) >= PIECE_BYTES:
            yield held[:PIECE_BYTES]
            held = held[PIECE_BYTES:]
    held += squeeze.flush()
    while len(held) > PIECE_BYTES:
        yield held[:PIECE_BYTES]
        held = held[PIECE_BYTES:]
    yield held


def _together(lines: Iterable[str]) -> Iterator[bytes]:
    some: list[str] = []
    for line in lines:
        some.append(line)
        if len(some) == _LINES_AT_ONCE:
            yield "\n".join([*some, ""]).encode("utf-8", "surrogatepass")
            some = []
    if some:
        yield "\n".join([*some, ""]).encode("utf-8", "surrogatepass")


def _with_last(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    before = next(pieces)
    for piece in pieces:
        yield before, False
        before = piece
    yield before, True


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_head(file: BinaryIO) -> Head:
    """The head of the backup in `file`, which is at its beginning. Raises `Invalid`."""
    return Head.parse(file.readline(HEAD_MAX_BYTES))


def verify(file: BinaryIO) -> tuple[Head, Written]:
    """Whether all of it is there and unaltered, as far as that can be known without a key. Raises `Invalid`."""
    source = _Summed(file)
    head = Head.parse(source.line())
    for _ in _sealed_pieces(source):
        pass
    return head, Written(source.count, source.sum.hexdigest())


def read(file: BinaryIO, opening: Opening) -> Iterator[str]:
    """The content's lines, without line ends. Raises `Invalid` where it is damaged, `Refused` where it does not open.

    A line is given before all that follows it has been looked at: nothing may be done with them before the last came.
    """
    source = _Summed(file)
    line = source.line()
    cipher, bound = AESGCM(opening.open(list(Head.parse(line).openers))), hashlib.sha256(line).digest()
    swell, rest = zlib.decompressobj(), b""
    for number, (sealed, last) in enumerate(_with_last(_sealed_pieces(source))):
        try:
            data = swell.decompress(cipher.decrypt(_nonce(number, last), sealed, bound))
        except (InvalidTag, zlib.error):
            raise Invalid(f"piece {number + 1} of the backup is damaged, or not of this backup") from None
        *lines, rest = (rest + data).split(b"\n")
        yield from (one.decode("utf-8", "surrogatepass") for one in lines)
    if not swell.eof or rest:
        raise Invalid("the backup's content breaks off")


def _sealed_pieces(source: _Summed) -> Iterator[bytes]:
    """Up to the end, whose checksum is looked at."""
    length, count = int.from_bytes(source.read(4), "big"), 0
    while length:
        if length > _PIECE_MAX_BYTES:
            raise Invalid("the backup is damaged: a piece is longer than any")
        yield source.read(length)
        count += 1
        length = int.from_bytes(source.read(4), "big")
    if not count:
        raise Invalid("the backup is empty")
    source.end()


def fsync(file: BinaryIO) -> None:
    """What was written is on disk."""
    file.flush()
    os.fsync(file.fileno())
