"""What is remembered of a log that was begun by force, with what a node held that was left (`provider.core.anew`).

    {"at", "by", "generation", "revision", "from": {"generation", "epoch", "revision"}, "kept", "lost"}

`revision` is the first of the new log; `kept` are the members that went on with it, `lost` those that were given up.
"""

from dataclasses import dataclass

from provider.core.commands.nodes import removed_key
from provider.core.state import State

BEGUN_ANEW = "cluster.begun_anew"
"""The setting."""


@dataclass(frozen=True, slots=True)
class Beginning:
    at: int
    """Unix ms."""
    by: str
    revision: int
    before: int
    """The last revision that was taken over."""
    kept: tuple[str, ...]
    lost: tuple[str, ...]
    instead_of: str
    """The generation of the log in whose place it was begun."""


def beginning(state: State) -> Beginning | None:
    """How the log that is followed now was begun; None where not by force."""
    known = state.get("setting", BEGUN_ANEW)
    if known is None or known.spec["value"]["generation"] != state.generation:
        return None
    said = known.spec["value"]
    known_as = said["from"]
    return Beginning(
        said["at"],
        said["by"],
        said["revision"],
        known_as["revision"],
        tuple(said["kept"]),
        tuple(said["lost"]),
        known_as["generation"],
    )


def first_revision(state: State) -> int:
    """Below this one, revisions are of a log that was given up: nobody goes on from there. 0: there is none."""
    known = beginning(state)
    return known.revision if known is not None else 0


def given_up(state: State, node: str) -> tuple[str, str] | None:
    """Of a node that was given up by force: the hash of its token, and what to tell it; else None."""
    trace = state.get("setting", removed_key(node))
    value = trace.spec["value"] if trace is not None else None
    if not isinstance(value, dict) or "token_sha256" not in value:
        return None
    return str(value["token_sha256"]), (
        f"{value['by']} went on without {node}, with a log of its own (`failover --force`): {node} was given up then "
        f"at revision {value['before']}, and what it alone had accepted behind that is lost to the cluster. It never "
        "comes back under this name: look through what it has set aside, then make a fresh node of this host "
        "(docs/MEMBERS.md)"
    )
