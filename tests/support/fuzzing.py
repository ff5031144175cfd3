"""Input that nobody should send: documents that are nearly right, and bytes that are nearly text.

Each run tries the same examples, for a few seconds in all. `BELLWETHER_FUZZ=N` tries N times as many, new ones each
time.
"""

import copy
import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("BELLWETHER_FUZZ", "0"))


def effort(examples: int) -> settings:
    """How hard to try: `examples` in an ordinary run."""
    return settings(
        max_examples=examples * max(TIMES, 1),
        derandomize=not TIMES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


RAW = {
    "@huge@": "9" * 4_000,
    "@huger@": "-" + "9" * 100_000,
    "@float@": "1e999",
    "@fraction@": "0." + "1" * 5_000,
    "@deep@": "[" * 150 + "]" * 150,
    "@deeper@": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "@open@": "[" * 50_000,
    "@surrogate@": '"\\ud800"',
    "@pair@": '"\\ude00\\ud83d"',
    "@twice@": '{"id": 1, "id": 2, "id": "db1"}',
    "@many@": "[" + "{}," * 3_000 + "0]",
    "@escape@": '"\\x"',
    "@control@": '"\x01"',
}
"""JSON text that no encoder writes, by what stands for it in a document."""
NASTY = st.sampled_from([
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**300, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "\x00", "a\nb", "\u2028", "\U0001f600", "x" * 5_000, "'; drop table x; --", "*",
    "#", "all", "node.p1", "db1", "../../etc/passwd", [], {}, [[]], [{}], [None], {"": None}, {"__proto__": 1}, *RAW,
])  # fmt: skip
"""Values where others are expected."""


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something to damage."""
    found = [at]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += paths(inner, (*at, index))
    return found


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """`document` with one thing in it replaced, removed, added, renamed or taken twice."""
    whole = {"": copy.deepcopy(document)}
    *way, last = draw(st.sampled_from([("", *path) for path in paths(document)]))
    parent: Any = whole
    for step in way:
        parent = parent[step]
    match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "rename", "repeat"])):
        case "remove" if way:
            del parent[last]
        case "add" if isinstance(parent[last], dict):
            parent[last][draw(st.sampled_from(["extra", "", "id", "v", "\x00", "@surrogate@"]))] = draw(NASTY)
        case "rename" if isinstance(parent, dict) and way:
            parent[draw(st.sampled_from([last.upper(), last + " ", "", "constructor"]))] = parent.pop(last)
        case "repeat" if isinstance(parent[last], list):
            parent[last] = parent[last] * draw(st.sampled_from([2, 1_000]))
        case _:
            parent[last] = draw(NASTY)
    return whole[""]


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """`data`, cut off, with bytes put in, changed, doubled, or as it is."""
    at, to = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    noise = draw(
        st.sampled_from([b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"{", b"[" * 9_000, b"\\", b"\r\n"])
        | st.binary(max_size=8)
    )
    match draw(st.sampled_from(["keep", "keep", "cut", "insert", "overwrite", "remove", "double"])):
        case "cut":
            return data[:at]
        case "insert":
            return data[:at] + noise + data[at:]
        case "overwrite":
            return data[:at] + noise + data[at + len(noise) :]
        case "remove":
            return data[:at] + data[to:]
        case "double":
            return data[:to] + data[at:]
        case _:
            return data


def text_of(document: Any) -> str:
    """JSON, with what stands for text that no encoder writes replaced by that text."""
    text = json.dumps(document)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


@st.composite
def nearly(draw: st.DrawFn, documents: list[Any]) -> bytes:
    """One of `documents` as bytes, with up to three things wrong with it."""
    document = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 3))):
        document = draw(damaged(document))
    return draw(spoilt(text_of(document).encode("utf-8", "surrogatepass")))
