"""What is wrong with a cluster for as long as nobody changes it: its standing warnings. Pure."""

from collections.abc import Iterator, Sequence
from itertools import chain

from provider.core.commands import BROKER_ADMIN, clock_skew_s
from provider.core.documents import canonical
from provider.core.state import State
from provider.fleet.alike import clock_skews, drifted, together
from provider.fleet.view import View
from provider.settings import is_loopback
from provider.trust.authorities import waiting
from shared.wording import listed

NAMED_MAX = 100


def warnings(state: State, view: View, here: str, untrusting: Sequence[str]) -> list[str]:
    """As the node `here` knows it, in a fixed order. `untrusting`: who does not trust yet what is to be trusted."""
    found = chain(
        _number(state),
        _maintenance(state),
        _placement(state),
        _clocks(state, view, here),
        _alike(state, view),
        _authority(state, untrusting),
    )
    return list(found)


def broker_users(state: State, node: str, management: str | None) -> str | None:
    """Why agents could not be let in while this node is primary; None: they could. `management`: its setting."""
    if state.get("credential", BROKER_ADMIN) is None:
        return None  # nobody's task
    members = state.of("node")
    own = [one.id for one in members if one.spec.get("broker")]
    ours = [one.spec["url"] for one in members if one.id == node]
    elsewhere = bool(own) and node not in own and not all(is_loopback(url) for url in ours)
    if management is not None and not (elsewhere and is_loopback(management)):
        return None
    return (
        f"{node} has no management API of a broker: while it is primary no broker users are made, so that new agents "
        "cannot connect. Make another node primary; for good, have its host join anew with a broker of its own, or set "
        "broker.management in its provider.toml to one that it reaches"
    )


def _number(state: State) -> Iterator[str]:
    if len(state.of("node")) == 2:
        yield "two nodes: the loss of either leaves no standby; add a third"


def _maintenance(state: State) -> Iterator[str]:
    resting = [node.id for node in state.of("node") if node.spec.get("maintenance") is not None]
    if state.primary in resting:
        yield f"{state.primary} is primary and in maintenance: promote another node before it is stopped"
    if len(resting) > 1:
        yield f"{', '.join(resting)} are in maintenance: stop one after the other, or the log stops, too"


def _placement(state: State) -> Iterator[str]:
    for label, value, names in together(state):
        yield f"{listed(names)} share the {label} {value}: they can be lost together"


def own_clock(state: State, view: View, here: str) -> str | None:
    """What is to be said of the clock of the node `here` before it is primary; None: nothing."""
    said = next((text for name, text in _skewed(state, view, here) if name == here), None)
    return None if said is None else f"{said}. Once it is primary, times in the log, tokens and certificates go by it"


def _clocks(state: State, view: View, here: str) -> Iterator[str]:
    return (text for _, text in _skewed(state, view, here))


def _skewed(state: State, view: View, here: str) -> Iterator[tuple[str, str]]:
    """Nodes whose clocks differ from the primary's, and what is to be said of it."""
    limit_s = clock_skew_s(state)
    for name, ahead_s in sorted(clock_skews(view, here, state.primary).items()):
        if abs(ahead_s) > limit_s and state.get("node", name) is not None:
            side = "ahead of" if ahead_s > 0 else "behind"
            yield (
                name,
                f"the clock of {name} is {abs(ahead_s):.1f} s {side} {state.primary}'s, more than the {limit_s:g} s "
                "that are allowed (cluster.clock_skew_s): set the one that is wrong right (chrony, NTP)",
            )


def _alike(state: State, view: View) -> Iterator[str]:
    primary = view.nodes.get(state.primary)
    for node in state.of("node"):
        seen = view.nodes.get(node.id)
        if seen is None or primary is None:
            continue
        if seen.pulse.version != primary.pulse.version:
            yield (
                f"{node.id} runs version {seen.pulse.version}, the primary {primary.pulse.version}: "
                "bring all nodes to the same"
            )
        differ = "; ".join(
            f"{one.name}: {_shown(one.here)}, the primary {_shown(one.there)}"
            for one in drifted(view, node.id, state.primary)
        )
        if differ:
            yield f"the configuration of {node.id} is not the primary's: {differ}. Make its provider.toml the same"


def _authority(state: State, untrusting: Sequence[str]) -> Iterator[str]:
    new = waiting(state) if state.of("authority") else None
    if new is not None:
        missing = ", ".join(untrusting[:NAMED_MAX]) or "nobody"
        yield f"authority {new.id} will sign as soon as all trust it; waiting for: {missing}"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else canonical(value)
