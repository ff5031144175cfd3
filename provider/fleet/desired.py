"""What an agent should see to: the state's documents as a message. Pure."""

from collections.abc import Callable

from provider.core.documents import Document
from provider.core.state import State
from shared import messages as m


def desired_for(state: State, agent: str, unseal: Callable[[str, str], str]) -> m.Desired:
    """Everything that `agent` should see to. `unseal` takes a sealed password and its context."""
    return m.Desired(
        revision=state.revision,
        instances=tuple(
            m.DesiredInstance(
                id=instance.id,
                databases=tuple(
                    m.DesiredDatabase(name=d.name, version=d.wish, **_manner(d), **d.spec)
                    for d in state.within("database", instance.id)
                ),
                accounts=tuple(_account(d, unseal) for d in state.within("account", instance.id)),
            )
            for instance in state.within("instance", agent)
        ),
    )


def _account(document: Document, unseal: Callable[[str, str], str]) -> m.DesiredAccount:
    sealed = document.spec.get("password")
    return m.DesiredAccount.model_validate(
        {
            **document.spec,
            "name": document.name,
            "password": unseal(sealed, document.id) if sealed is not None else None,
            "version": document.wish,
            **_manner(document),
        }
    )


def _manner(document: Document) -> dict[str, bool]:
    """How a wish is to be dealt with."""
    phase = document.status["phase"]
    return {"drop": phase == "dropping"} | ({"hold": True} if phase == "held" else {})
