"""Making one backup: from a state to a file in its place, and what is remembered of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provider.backup import container
from provider.backup.content import Content
from provider.backup.names import name_of, outlived
from provider.backup.port import Target, TargetFailed
from provider.backup.recovery import Closing, ForRecovery
from provider.core.commands import RECOVERY
from provider.core.state import State
from provider.trust.vault import Vault
from shared.logs import log


@dataclass(frozen=True, slots=True)
class Made:
    """`at` is Unix ms, by the clock of `node`; `where` is for people."""

    name: str
    where: str
    node: str
    at: int
    epoch: int
    revision: int
    documents: int
    size_bytes: int
    sha256: str

    def noted(self) -> Mapping[str, Any]:
        """What the cluster remembers of it."""
        return {name: getattr(self, name) for name in self.__slots__}


def make(content: Content, node: str, closings: Sequence[Closing], target: Target) -> Made:
    """Writes one backup. Blocking; any thread. Raises `TargetFailed`, `Invalid`."""
    head = content.head(node, int(time.time() * 1000))
    name = name_of(head)
    written = target.store(name, lambda file: container.write(file, head, closings, content.lines()))
    return Made(
        name=name,
        where=target.shown(name),
        node=node,
        at=head.at,
        epoch=head.epoch,
        revision=head.revision,
        documents=head.documents,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
    )


def tidy(target: Target, made: str, keep: int) -> list[str]:
    """Removes what is older than the newest `keep`, now that `made` is there: the names that went. A place that cannot
    be tidied has its backup all the same."""
    gone = []
    try:
        for name in outlived(target.names(), made, keep):
            target.remove(name)
            gone.append(name)
    except TargetFailed as error:
        log(why=error.detail).warning("old backups could not be removed; trying again with the next one")
    return gone


def recovery_of(state: State, vault: Vault) -> ForRecovery | None:
    """What backups are closed for; None: no recovery key was made yet. Raises `Unsealable`."""
    known = state.get("credential", RECOVERY)
    if known is None:
        return None
    return ForRecovery(str(known.spec["username"]), vault.unseal(known.spec["passwords"][0], RECOVERY))
