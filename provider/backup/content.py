"""What a backup holds: the state at one revision, the keys that open what is sealed in it, the settings of its nodes.

    {"data_keys": {"k1": "<base64>"}, "configuration": {…}}      all that is not in the state
    …                                                            the state, as `provider.snapshot` writes it

One immutable state is written, so the backup is consistent whatever is committed meanwhile. Not in it: the history
(what the audit and `GET /events` tell of the past), the log, what lies in the database servers themselves.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from provider.backup.container import Head
from provider.core.commands import CLUSTER_ID
from provider.core.documents import canonical
from provider.core.state import State
from provider.settings import COMMON
from provider.snapshot import read_snapshot, write_snapshot
from shared.errors import Invalid
from shared.version import VERSION


@dataclass(frozen=True, slots=True)
class Content:
    """All that a cluster is made of, apart from its hosts."""

    state: State
    data_keys: Mapping[str, bytes] = field(repr=False)
    """By id; 32 bytes each."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are the same on all nodes and not at their defaults; see `provider.settings.configuration`."""

    def lines(self) -> Iterator[str]:
        keys = {id_: base64.b64encode(key).decode() for id_, key in self.data_keys.items()}
        first = canonical({"data_keys": keys, "configuration": dict(self.configuration)})
        return chain((first,), write_snapshot(self.state, None))

    def head(self, node: str, at: int) -> Head:
        """`node` makes the backup at `at` (Unix ms)."""
        state = self.state
        return Head(
            cluster=cluster_id(state),
            node=node,
            version=VERSION,
            generation=state.generation,
            epoch=state.epoch,
            revision=state.revision,
            at=at,
            documents=sum(len(collection) for collection in state.documents.values()),
        )


def read_content(lines: Iterable[str]) -> Content:
    """What `Content.lines` gave. Raises `Invalid` where anything is missing or altered."""
    source = iter(lines)
    try:
        first: dict[str, Any] = json.loads(next(source))
        keys = {str(id_): base64.b64decode(key, validate=True) for id_, key in first["data_keys"].items()}
        configuration = dict(first["configuration"])
    except (StopIteration, ValueError, LookupError, TypeError, AttributeError, binascii.Error):
        raise Invalid("the backup's content is damaged: it does not begin with its keys") from None
    state, _ = read_snapshot(source)
    for _ in source:  # its end is what says that nothing is missing
        raise Invalid("the backup's content is damaged: something follows the state")
    if any(len(key) != 32 for key in keys.values()) or {document.id for document in state.of("key")} != set(keys):
        raise Invalid("the backup's keys are not those of its state")
    # A newer version may know fewer settings: those that are none any more are left out.
    return Content(state, keys, {name: value for name, value in configuration.items() if name in COMMON})


def cluster_id(state: State) -> str:
    """The cluster's identity, which it keeps whatever becomes of its logs."""
    known = state.get("setting", CLUSTER_ID)
    return str(known.spec["value"]) if known is not None else "?"
