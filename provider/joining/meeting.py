"""The first words with a cluster: is it the one that the token is for, and what time is it there?"""

import time
from contextlib import closing

from provider.client import Client
from shared.errors import Invalid, Refused
from shared.tls import pinned, unverified_context
from shared.tokens import Token, parse_token

SAMPLES = 3
FAR_OFF_S = 3600.0
"""Certificates are valid from an hour before they were signed: further behind, this host would trust none. Far ahead it
takes those of all members for expired. More is never allowed (`cluster.clock_skew_s`)."""


def join_token(text: str) -> Token:
    """The one-time token. Raises `Invalid`."""
    token = parse_token(text)
    if token.role != "node" or token.fingerprint is None:
        raise Invalid("this is no token for a node: make one with `provider token create --role node`")
    return token


def trusted_ca(url: str, expected: str) -> str:
    """The authority's certificate at `url` that has the expected fingerprint; whatever else is sent with it is not
    proven, and not trusted. Raises `Refused` where it is not there."""
    with closing(Client([url], token=None, tls=unverified_context())) as client:
        ca = client.text("/ca")
    try:
        found = pinned(ca, expected)
    except ValueError:
        raise Refused(f"{url} does not answer like a provider") from None
    if found is None:
        raise Refused(f"{url} is not of the cluster that this token is for: its certificate authority is another one")
    return found


def clock_skew_s(url: str) -> float:
    """Seconds that this host's clock is ahead of the node's at `url`; negative: behind. Half of the quickest of some
    answers' way is what it may be wrong by. Asked without looking at certificates: to a clock that is far off they are
    not valid, and that is what is to be found out. Raises `Refused`."""
    best_s, ahead_s = float("inf"), 0.0
    with closing(Client([url], token=None, tls=unverified_context())) as client:
        for _ in range(SAMPLES):
            began_s, wall_s = time.monotonic(), time.time()
            there = client.get("/health/live")
            took_s = time.monotonic() - began_s
            if not isinstance(there, dict) or not isinstance(there.get("now"), int):
                raise Refused(f"{url} does not answer like a provider of this version")
            if took_s < best_s:
                best_s, ahead_s = took_s, wall_s + took_s / 2 - there["now"] / 1000
    if abs(ahead_s) > FAR_OFF_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        raise Refused(
            f"this host's clock is {abs(ahead_s):.0f} s {side} the cluster's: set it right first (chrony, NTP)"
        )
    return ahead_s
