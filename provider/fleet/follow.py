"""Whether agents follow: the current epoch, the authorities to trust, the broker password that they are to use. Pure.

What an agent last said counts; where this node has not heard it since it started, what was last written down.
"""

from collections import Counter
from hashlib import sha256
from typing import Any

from provider.core.commands import is_changing
from provider.core.documents import Document
from provider.core.state import State
from provider.fleet.view import AgentSeen, View
from shared import messages as m

PASSWORD_DAYS = 90.0
"""Age at which an agent's broker password is changed. Can be set: `agents.password_days`; 0: never."""
SPREAD = 0.25
"""Of that age: some are changed so much earlier than others, lest all that came in one hour change in one hour."""
DAY_MS = 86_400_000


def behind(document: Document, seen: AgentSeen, state: State, trust: str | None) -> bool:
    """Whether an agent that was heard has to be advised. `trust` is what it should trust; None: not known here."""
    return (
        seen.epoch < state.epoch
        # One that says nothing of it is of an older version: to tell it again would not help.
        or (trust is not None and seen.trust is not None and seen.trust != trust)
        or seen.credential < wanted_credential(document)
    )


def advised(document: Document, state: State, view: View) -> bool:
    """Whether an agent follows, as far as is known."""
    seen = view.agents.get(document.id)
    said = document.status
    if seen is None:
        epoch, trust, credential = said.get("epoch", 0), said.get("trust"), said.get("credential", 0)
    else:
        epoch, trust, credential = max(seen.epoch, said.get("epoch", 0)), seen.trust, seen.credential
    return bool(
        epoch >= state.epoch
        and (view.trust is None or trust is None or trust == view.trust)
        and credential >= wanted_credential(document)
    )


def agents_at(state: State, view: View) -> Counter[str]:
    """How many of the agents that are online sit at which broker."""
    found: Counter[str] = Counter()
    for id_, document in (state.documents.get("agent") or {}).items():
        if document.status.get("state") == "online":
            seen = view.agents.get(id_)
            found[seen.endpoint if seen is not None else str(document.status.get("endpoint", "?"))] += 1
    return found


def agents_without_trust(state: State, view: View, trust: str) -> list[str]:
    """Agents of which it is not known that they trust this (`shared.tls.trust_of`), by name."""
    found = []
    for document in state.of("agent"):
        seen = view.agents.get(document.id)
        said = seen.trust if seen is not None and seen.trust is not None else document.status.get("trust")
        if said != trust:
            found.append(document.id)
    return found


def wanted_credential(document: Document) -> int:
    """The number of the password that an agent is to have."""
    wanted = document.spec.get("wanted_credential")
    return int(wanted if wanted is not None else document.spec.get("credential", 0))


def offered(document: Document, seen: AgentSeen) -> m.Offer | None:
    """The password that an agent has made, where it was asked for that one."""
    offer = seen.offer
    return offer if offer is not None and offer.number == document.spec.get("wanted_credential") else None


def to_rotate(document: Document, state: State, at_ms: int) -> bool:
    """Whether an agent's password is so old at `at_ms` (Unix ms) that it is to be changed."""
    setting = state.get("setting", "agents.password_days")
    days = float(setting.spec["value"]) if setting is not None else PASSWORD_DAYS
    if days <= 0 or is_changing(document):
        return False
    since_ms = document.spec.get("credential_at", document.created_at)
    early = SPREAD * int.from_bytes(sha256(document.id.encode()).digest()[:4]) / 2**32
    return bool(at_ms - since_ms >= days * (1 - early) * DAY_MS)


def credential_for(document: Document | None, *, on_broker: bool) -> m.Credential | None:
    """What an agent is told about its password; `on_broker`: the broker has the one that the state has."""
    if document is None or (number := wanted_credential(document)) == 0:
        return None
    return m.Credential(number=number, active=on_broker and document.spec.get("wanted_credential") is None)


def seen_status(seen: AgentSeen) -> dict[str, Any]:
    """What is written down of it."""
    said = {"trust": seen.trust, "credential": seen.credential or None}
    return {name: value for name, value in said.items() if value is not None}
