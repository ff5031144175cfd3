"""What one running node is trusted for, and whom it trusts: files, keys and TLS contexts, kept as the state wants them.

The daemon makes one of these and tells it what was applied; everything else here follows.
"""

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from provider.core.commands import CERTIFICATE_DAYS, CERTIFICATE_HOSTS, Command, SignWith
from provider.core.state import Delta, State
from provider.fleet.follow import agents_without_trust
from provider.fleet.view import View
from provider.settings import Files, ProviderSettings
from provider.trust.authorities import bundle, untrusting_nodes
from provider.trust.certificates import Certificates
from provider.trust.membership import Membership
from provider.trust.news import news_of, recording
from provider.trust.peers import Peers
from provider.trust.vault import Vault, data_keys
from shared.errors import Behind, Unavailable
from shared.tls import client_context, server_context, trust_of


class Trust:
    """One node's. `start` and `stop` the thread that keeps its certificate; the rest says its thread.

    `state` is the newest durable state, `view` what was heard of nodes and agents. `commit(command)` has something
    committed on this node's own behalf and says whether it was; `reach(revision)` waits for this node's copy;
    `current()`: it has all that the log holds; `connected()`: it can be read now;
    `on_expelled` is told where another member says that this node was removed, though the log could not tell it so any
    more. They may block, and are called on the certificates' thread.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        files: Files,
        initial: State,
        *,
        state: Callable[[], State],
        view: Callable[[], View],
        commit: Callable[[Command], bool],
        reach: Callable[[int], None],
        on_expelled: Callable[[str], None],
        current: Callable[[], bool],
        connected: Callable[[], bool],
        software: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        """`software()`: version and plug-ins of this host's broker, where they are known."""
        self._node, self._files = settings.name, files
        self._state, self._view, self._commit, self._reach = state, view, commit, reach
        self._private_key = files.secrets_key.read_text(encoding="ascii")
        self.vault = Vault(data_keys(initial.of("key"), self._node, self._private_key))
        self.membership = Membership(settings, files, self.vault)
        self.server_tls = server_context(files.certificate, files.key, files.ca)
        """Of the API's server, which asks for it anew with each connection: another one counts from then on."""
        self.client_tls = self._as_client()
        """Of what this node asks of others."""
        self._on_expelled = on_expelled
        self._peers = Peers(self._node, files, state)
        self._certificates = Certificates(
            node=self._node,
            files=files,
            state=state,
            renew=self._renewed,
            reload=self._reload,
            expelled=self._find_out,
            untrusting=self.untrusting,
            sign_with=lambda id_: commit(SignWith(id_)),
            current=current,
            connected=connected,
            news=lambda state: news_of(settings, state, software()),
        )

    def start(self) -> None:
        self._certificates.start()

    def stop(self) -> None:
        self._certificates.stop()

    @property
    def name(self) -> str:
        """Short name of the authorities that this node trusts now."""
        return self._certificates.trust

    def applied(self, delta: Delta) -> None:
        """Engine's thread, before anybody looks at the state. Data keys are known before what they seal is opened."""
        keys = [document for document in delta.put if document.kind == "key" and not self.vault.knows(document.id)]
        for id_, key in data_keys(keys, self._node, self._private_key).items():
            self.vault.add(id_, key)
        touched = [(document.kind, document.id) for document in delta.put] + list(delta.deleted)
        if any(kind in ("authority", "node") or id_ in (CERTIFICATE_DAYS, CERTIFICATE_HOSTS) for kind, id_ in touched):
            self._certificates.look_again()

    def look_again(self) -> None:
        """Something may be new about this node. Any thread."""
        self._certificates.look_again()

    def refused(self) -> None:
        """The broker does not let this node in: perhaps it was removed. Any thread."""
        self._certificates.refused()

    def untrusting(self, state: State) -> list[str]:
        """Nodes and agents that have not said that they trust what is to be trusted. Any thread."""
        view = self._view()
        trusts = {name: seen.pulse.trust for name, seen in view.nodes.items()} | {self._node: self.name}
        return [*untrusting_nodes(state, trusts), *agents_without_trust(state, view, trust_of(bundle(state)))]

    # ── the certificates' thread ──

    def _renewed(self, csr: str, news: dict[str, Any]) -> str:
        """The primary signs its own; the others ask it."""
        state = self._state()
        if state.primary == self._node:
            certificate, recorded = self.membership.renew(state, csr, self._node, news.get("url"))
            if not self._commit(recording(self._node, recorded, news)):
                raise Unavailable("the certificate could not be recorded")
            return certificate
        certificate, revision = self._peers.renewed(csr, news)
        # Else the next look would take it for one that is not on record. A node that cannot read the log now takes it
        # all the same: those that it would ask for instead would soon drive the one in use out of the record.
        with suppress(Behind):
            self._reach(revision)
        return certificate

    def _find_out(self) -> bool:
        why = self._peers.expelled()
        if why is not None:
            self._on_expelled(why)
        return why is not None

    def _reload(self) -> None:
        """What is connected stays so; whoever connects from now on meets the new files."""
        self.server_tls = server_context(self._files.certificate, self._files.key, self._files.ca)
        self.client_tls = self._as_client()

    def _as_client(self) -> ssl.SSLContext:
        return client_context(self._files.ca, self._files.certificate, self._files.key)
