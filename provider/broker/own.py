"""Says, for root on this host, how its broker is to be: `broker.json` in the data directory, as the state wants it.

The daemon may not touch RabbitMQ, and root does not ask the daemon: the file is all that goes between them. A path unit
sees it change and has `provider broker apply` act on it. That unit is blind while what it has started still runs: what
root says it has done is compared with what was asked for, which is asked for again where it is not that.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from provider.broker.host.wanted import FILE, STATUS, Anew, Wanted, what_is_wrong
from provider.core.commands import BROKER_ADMIN, BROKER_COOKIE, beginning, gone_brokers
from provider.core.documents import BrokerNode
from provider.core.state import Accepted, State
from provider.trust.membership import broker_cookie
from provider.trust.vault import Vault
from shared.backoff import Backoff
from shared.errors import BellwetherError, Invalid
from shared.files import write_atomically
from shared.logs import log
from shared.passwords import broker_password_hash

RETRY_S = 5.0
ASK_AGAIN_S = 30.0
MADE_S, MADE_LONGEST_S = 4.0, 60.0
"""Root is asked again after so long, and then longer and longer: a join may take it minutes."""
STOP_S = 5.0
_ANYWHERE = "192.0.2.1"
"""An address for documentation (RFC 5737): what is said of a broker's software is judged without where it is."""


def wanted_of(state: State, node: str, vault: Vault) -> Wanted | None:
    """How the broker of a member's host is to be; None where it is not ours. Raises `Invalid`, also where the state
    contradicts itself about brokers."""
    try:
        return _wanted(state, node, vault)
    except ValidationError as error:
        raise Invalid(f"what the cluster knows of its brokers cannot be: {what_is_wrong(error)}") from None


def _wanted(state: State, node: str, vault: Vault) -> Wanted | None:
    brokers = {
        one.id: BrokerNode.model_validate(one.spec["broker"]) for one in state.of("node") if one.spec.get("broker")
    }
    own, cookie = brokers.get(node), broker_cookie(vault, state)
    if own is None or cookie is None:
        return None
    return Wanted(
        own=own.node,
        member=True,
        brokers=tuple(brokers[name] for name in sorted(brokers)),
        gone=tuple(name for name in gone_brokers(state) if name != own.node),
        cookie=cookie,
        stream=f"bellwether.log.{state.generation}",
        anew=_anew(state, node, vault, brokers),
    )


def _anew(state: State, node: str, vault: Vault, brokers: Mapping[str, BrokerNode]) -> Anew | None:
    """Where this log was begun by force: the brokers of those who were there begin anew, once. Who joins later has an
    empty one."""
    known, admin = beginning(state), state.get("credential", BROKER_ADMIN)
    if known is None or node not in known.kept or known.by not in brokers or admin is None:
        return None
    password = vault.unseal(admin.spec["passwords"][0], BROKER_ADMIN)
    salt = sha256(state.generation.encode()).digest()[:4]  # the same each time: what is wanted does not change by it
    return Anew(
        generation=state.generation,
        first=brokers[known.by].node,
        user=str(admin.spec["username"]),
        password_hash=broker_password_hash(password, salt),
    )


def _concerned(accepted: Accepted) -> bool:
    """Whether a change of the state may be one of what is wanted. A claim may begin another log."""
    delta = accepted.delta
    touched = [(document.kind, document.id) for document in delta.put] + list(delta.deleted)
    return accepted.record.type == "claim" or any(
        kind == "node" or (kind, id_) == ("credential", BROKER_COOKIE) for kind, id_ in touched
    )


class OwnBroker:
    """One thread. Public methods may be called from any other, and do not wait."""

    def __init__(
        self,
        *,
        node: str,
        data_dir: Path,
        state: State,
        vault: Vault,
        status: Path = STATUS,
        on_software: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_software` is called on this thread when `software` has changed."""
        self._node, self._path, self._state, self._vault = node, data_dir / FILE, state, vault
        known = state.get("node", node)
        broker = known.spec.get("broker") if known is not None else None
        self._name: str | None = BrokerNode.model_validate(broker).node if broker else None
        self._removed = False
        self._asked_s = float("-inf")
        self._status = status
        self._unmade: Wanted | None = None
        """What root has not said yet that it has done."""
        self._again = Backoff(MADE_S, MADE_LONGEST_S)
        self.problem: str | None = None
        """Why root cannot be told what this host's broker is to be."""
        self.hindrance: str | None = None
        """What hindered root, by its own word, the last time that it tried what it has not done yet."""
        self.software: Mapping[str, Any] | None = None
        """Version and plug-ins of this host's broker, as root found them last: an upgrade may have brought others than
        the state knows, by which newcomers are judged."""
        self._on_software = on_software
        self._written: Wanted | None = None
        """None after a start: written again even if nothing has changed, so that root looks again as well."""
        self._news = threading.Condition()
        self._look, self._stopping = True, False
        self._thread = threading.Thread(target=self._run, name="own-broker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(STOP_S)

    def applied(self, state: State, accepted: Sequence[Accepted]) -> None:
        """Engine's thread. What is wanted may have changed."""
        if any(_concerned(one) for one in accepted):
            self._look_again(state)

    def _look_again(self, state: State) -> None:
        with self._news:
            self._state = state
            self._look = True
            self._news.notify_all()

    @property
    def made(self) -> bool:
        """Whether root has said that all is as it was asked."""
        return self._unmade is None

    def refused(self) -> None:
        """Links' threads, often. The broker does not serve this node: root is to look whether it is well."""
        with self._news:
            now_s = time.monotonic()
            if now_s - self._asked_s >= ASK_AGAIN_S:
                self._asked_s, self._written, self._look = now_s, None, True
                self._news.notify_all()

    def removed(self) -> None:
        """This node is no member any more: its broker is to leave the others."""
        self._removed = True
        self._look_again(self._state)

    def _run(self) -> None:
        while True:
            with self._news:
                wait_s = self._again.next_s() if self._unmade is not None else None
                self._news.wait_for(lambda: self._look or self._stopping, wait_s)
                if self._stopping:
                    return
                look, self._look = self._look, False
            try:
                self._write() if look else self._ask_again()
                self.problem = None
            except (BellwetherError, OSError) as error:
                if str(error) != self.problem:
                    log(why=str(error)).warning("what this host's broker is to be could not be written; trying again")
                self.problem = str(error)
                with self._news:
                    self._news.wait_for(lambda: self._look or self._stopping, RETRY_S)
                    self._look = True

    def _write(self) -> None:
        state = self._state
        if self._removed or state.get("node", self._node) is None:
            wanted = Wanted(own=self._name, member=False) if self._name is not None else None
        else:
            wanted = wanted_of(state, self._node, self._vault)
        if wanted is None:
            return
        self._name = wanted.own
        if wanted == self._written:
            return
        self._unmade, self.hindrance = wanted.model_copy(update={"asked": uuid4().hex}), None
        self._again.reset()
        write_atomically(self._path, self._unmade.text())
        self._written = wanted
        log(broker=wanted.own, member=wanted.member).info("what this host's broker is to be has changed")

    def _ask_again(self) -> None:
        """Unless root has said that it is done."""
        unmade = self._unmade
        if unmade is None:
            return
        try:
            said = json.loads(self._status.read_text(encoding="utf-8"))
            made, hindrance, found = said["made"], said["problem"], said.get("broker")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            made, hindrance, found = None, None, None  # nobody has looked yet
        if found is not None:
            self._found(found)
        if made == unmade.asked:
            self._unmade = self.hindrance = None
        else:
            self.hindrance = hindrance
            write_atomically(self._path, unmade.text())

    def _found(self, broker: Any) -> None:
        """What root says that this host's broker is."""
        try:
            known = BrokerNode.model_validate({**broker, "node": self._name, "address": _ANYWHERE})
        except (ValidationError, TypeError):
            return  # nothing that the state could hold
        software = known.model_dump(mode="json", include={"version", "plugins"})
        if software != self.software:
            self.software = software
            self._on_software()
