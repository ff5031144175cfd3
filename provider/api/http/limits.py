"""What is too much: pure deciders. Time is passed in (seconds, of any clock that only rises)."""

import re
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import accumulate

TOLD = 32
"""Connections beyond a limit that may still shake hands, to be told why they are refused. Those beyond are cut."""
LEVELS = 65
"""Of arrays and objects in a request's body: 64 in a value, and the body around it. The same on every node, since what
one node accepts all of them must be able to read."""
# Possessive, and an open string ends with the text: no input makes this slower than once through.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets to bytes that are +1 and -1 once they are read as signed."""


class Buckets:
    """Token buckets, one a key: `rate` a second, `burst` at once. Remembers `size` keys; the one that was not seen for
    the longest time is forgotten first, and begins anew with a full bucket."""

    def __init__(self, rate: float, burst: float, size: int = 10_000) -> None:
        self._rate, self._burst, self._size = rate, burst, size
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str, now_s: float) -> bool:
        """Takes one; whether there was one left."""
        level, at_s = self._levels.get(key, (self._burst, now_s))
        level = min(self._burst, level + (now_s - at_s) * self._rate)
        taken = level >= 1
        self._levels[key] = (level - 1 if taken else level, now_s)
        self._levels.move_to_end(key)
        if len(self._levels) > self._size:
            self._levels.popitem(last=False)
        return taken


class Verdict(Enum):
    SERVE = "serve"
    TELL = "tell"
    """Answer that it is one too many, then close."""
    CUT = "cut"
    """There are too many even of those that are to be told."""


class Connections:
    """How many there are, in all and of each client."""

    def __init__(self, per_client: int, in_all: int) -> None:
        self.per_client, self.in_all = per_client, in_all
        self.total = 0
        self.members = 0
        """Of the total, those of nodes of the cluster."""
        self._of: Counter[str] = Counter()

    def of(self, client: str) -> int:
        return self._of[client]

    @property
    def clients(self) -> int:
        return len(self._of)

    def enter(self, client: str | None) -> "Place":
        """A place for a connection of `client`; None is somebody who is not counted alone. It is taken also where the
        verdict is to tell; not where it is to cut."""
        verdict = max(
            _verdict(self.total, self.in_all),
            _verdict(self._of[client], self.per_client) if client is not None else Verdict.SERVE,
            key=_SEVERITY.index,
        )
        if client is not None and not self._of[client]:
            del self._of[client]  # asking made an entry
        place = Place(self, client, verdict, "in_all" if self.total >= self.in_all else "per_client")
        if verdict is not Verdict.CUT:
            self.total += 1
            if client is not None:
                self._of[client] += 1
            place.taken = True
        return place

    def leave(self, client: str | None) -> None:
        self.total -= 1
        self.forget(client)

    def forget(self, client: str | None) -> None:
        if client is not None:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]


_SEVERITY = (Verdict.SERVE, Verdict.TELL, Verdict.CUT)


def _verdict(there: int, limit: int) -> Verdict:
    if there < limit:
        return Verdict.SERVE
    return Verdict.TELL if there < limit + TOLD else Verdict.CUT


@dataclass(slots=True)
class Place:
    """One connection among all of them."""

    connections: Connections
    client: str | None
    verdict: Verdict
    why: str
    """Which limit it is, where the verdict is not to serve: `per_client` or `in_all`."""
    taken: bool = False
    member: bool = False

    def known(self) -> None:
        """It is a node of the cluster: it is served, and no longer counts for its address."""
        if self.taken:
            self.connections.forget(self.client)
            self.connections.members += 1
            self.client, self.verdict, self.member = None, Verdict.SERVE, True

    def leave(self) -> None:
        """It has ended. Once more changes nothing."""
        if self.taken:
            self.taken = False
            self.connections.members -= self.member
            self.connections.leave(self.client)


class Phase(Enum):
    """What a connection waits for."""

    FIRST = "the first request"
    HEAD = "the rest of a request's head"
    BODY = "the rest of a body"
    ANSWER = "our answer"
    REST = "the rest of a body that was answered before it was read"
    IDLE = "the next request"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each may take, in seconds; settings of the same names say more."""

    head_s: float
    body_grace_s: float
    body_min_bytes_per_s: float
    idle_s: float
    unread_s: float

    def lost(self, phase: Phase, waited_s: float, received: int) -> bool:
        """Whether patience ends. `waited_s` since the phase began, in which `received` bytes of a body came."""
        match phase:
            case Phase.FIRST | Phase.HEAD:
                return waited_s > self.head_s
            case Phase.BODY:
                return received < (waited_s - self.body_grace_s) * self.body_min_bytes_per_s
            case Phase.REST:
                return waited_s > self.body_grace_s
            case Phase.IDLE:
                return waited_s > self.idle_s
            case Phase.ANSWER:
                return False


def too_deep(body: bytes, levels: int = LEVELS) -> bool:
    """Whether arrays and objects in `body` are nested deeper than `levels`. Of what is no JSON it may say either.

    Compiled code throughout and no recursion: this runs on what nobody has looked at yet.
    """
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    steps = _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKET)
    depth = 0
    for start in range(0, len(steps), 4096):  # most that are too deep are so at once
        depths = list(accumulate(array("b", steps[start : start + 4096]), initial=depth))
        if max(depths) > levels:
            return True
        depth = depths[-1]
    return False


def plain(text: str) -> str:
    """An address without its zone, and IPv4 as such where it is written as IPv6."""
    bare = text.partition("%")[0]
    return bare[7:] if bare.lower().startswith("::ffff:") and "." in bare else bare


@lru_cache(maxsize=4096)
def group(address: str) -> str:
    """Whom an address belongs to: itself; of IPv6 the network of /64, all of which one host has."""
    text = plain(address)
    try:
        parsed = ip_address(text)
    except ValueError:
        return text
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64" if isinstance(parsed, IPv6Address) else text


class Networks:
    """Addresses and networks."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text, strict=False) for text in texts]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, text: str) -> bool:
        if not self._networks:
            return False
        try:
            address = ip_address(plain(text))
        except ValueError:
            return False
        return any(address in network for network in self._networks)
