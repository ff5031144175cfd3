"""The members, in a file beside the store: a node that has lost its store knows from it whom to ask."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provider.core.commands import CLUSTER_ID, need
from provider.core.state import State
from shared.files import write_atomically

FILE = "members.json"


@dataclass(frozen=True, slots=True)
class Known:
    cluster: str
    urls: Mapping[str, str]
    """By name, this node's among them."""


def known_of(state: State) -> Known:
    cluster = str(need(state, "setting", CLUSTER_ID).spec["value"])
    return Known(cluster, {node.id: str(node.spec["url"]) for node in state.of("node")})


def write_known(data_dir: Path, known: Known) -> None:
    """Raises `OSError`."""
    write_atomically(data_dir / FILE, json.dumps({"cluster": known.cluster, "members": dict(known.urls)}) + "\n")


def known_members(data_dir: Path) -> Known | None:
    """None where the file is not there, or says nothing."""
    try:
        said = json.loads((data_dir / FILE).read_text(encoding="utf-8"))
        return Known(str(said["cluster"]), {str(name): str(url) for name, url in said["members"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
