"""What nodes must have in common, and how far they are from it: clocks, settings, versions. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from provider.core.commands import Difference, differences
from provider.core.documents import Document
from provider.core.state import State
from provider.fleet.view import NodeSeen, View

PLACEMENTS = ("host", "zone")


def sent_ms(text: str) -> int | None:
    """The time at which a message says that it was sent, Unix milliseconds; None where it says none."""
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None


def clock_skews(view: View, here: str, primary: str) -> dict[str, float]:
    """Seconds that each node's clock is ahead of the primary's; negative: behind it. As `here` hears them: of each
    message it is known when it was sent, by the sender's clock, and when it came, by ours. The way takes time, so the
    quickest of the last ones tells the most. Empty while the primary has not been heard of."""
    ahead_s = {name: -seen.lag_ms / 1000 for name, seen in view.nodes.items() if seen.lag_ms is not None}
    ahead_s[here] = 0.0
    if primary not in ahead_s:
        return {}
    return {name: round(s - ahead_s[primary], 3) for name, s in ahead_s.items()}


def drifted(view: View, node: str, primary: str) -> list[Difference]:
    """Settings that the node has otherwise than the primary (`there`), as both last said."""
    here, there = view.nodes.get(node), view.nodes.get(primary)
    if here is None or there is None or here.pulse.configuration == there.pulse.configuration:
        return []
    names = here.pulse.settings.keys() | there.pulse.settings.keys()
    return differences(_of(here, names), _of(there, names)) or [
        Difference("configuration", here.pulse.configuration, there.pulse.configuration)
    ]


def _of(seen: NodeSeen, names: set[str]) -> Mapping[str, Any]:
    return {name: seen.pulse.settings.get(name, "the default") for name in names}


def together(state: State) -> list[tuple[str, str, list[str]]]:
    """Nodes that can be lost together: label, its value, and the names of those that share it."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in state.of("node"):
        for label in PLACEMENTS:
            value = labels_of(node).get(label)
            if value is not None:
                found.setdefault((label, value), []).append(node.id)
    return [(label, value, names) for (label, value), names in sorted(found.items()) if len(names) > 1]


def labels_of(node: Document) -> dict[str, str]:
    return dict(node.spec.get("labels", {}))
