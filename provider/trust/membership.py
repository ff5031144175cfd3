"""What newcomers are given, what agents are told about the cluster, and what is signed for whom."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from provider.core.commands import BROKER_ADMIN, BROKER_COOKIE, CERTIFICATE_DAYS, need, signing
from provider.core.documents import PASSWORDS_MAX, AuthoritySpec, CertificateSpec, CredentialSpec, Document, KeySpec
from provider.core.state import State
from provider.settings import Files, ProviderSettings, is_loopback, set_apart
from provider.trust import pki
from provider.trust.authorities import broker_host, bundle, hosts_of, node_hosts
from provider.trust.trial import try_authority
from provider.trust.vault import Vault, new_data_key, wrap
from shared import messages as m
from shared.errors import Refused
from shared.tls import fingerprint
from shared.tokens import new_token


@dataclass(frozen=True, slots=True)
class Membership:
    """Works on the state that it is given, with this node's vault and settings. Any thread."""

    settings: ProviderSettings
    files: Files
    vault: Vault

    def certificate_days_left(self) -> float:
        return pki.days_left(self.files.certificate.read_text(encoding="ascii"))

    def advice(self, state: State) -> m.Advice:
        """The primary's broker and address first, then the others' by name; of nodes in maintenance last."""
        nodes = sorted(
            state.of("node"),
            key=lambda node: (node.spec.get("maintenance") is not None, node.id != state.primary, node.id),
        )
        return m.Advice(
            epoch=state.epoch,
            primary=state.primary,
            endpoints=tuple(dict.fromkeys(endpoint for node in nodes for endpoint in node.spec["endpoints"])),
            providers=tuple(_url(node) for node in nodes),
            vhost=self.settings.broker.vhost,
            ca=bundle(state),
        )

    # ── certificates ──

    def sign(
        self, state: State, csr: str, name: str, url: str, broker: str | None = None
    ) -> tuple[str, CertificateSpec]:
        """The certificate for the node at `url`, PEM, and what is to be recorded of it. `broker`: the name of its host
        among brokers, where its broker is ours. Raises `Invalid`, `Refused`."""
        authority = signing(state)
        key = self.vault.unseal(authority.spec["key"], authority.id)
        hosts, days = node_hosts(state, url, broker), certificate_days(state)
        pem = pki.sign(csr, name, hosts, authority.spec["certificate"], key, days=days)
        given = pki.read_certificate(pem)
        expires_at = int(given.not_after.timestamp() * 1000)
        return pem, CertificateSpec(
            sha256=given.sha256, key_sha256=given.key_sha256, authority=authority.id, expires_at=expires_at
        )

    def try_hosts(self, state: State, more: Iterable[str]) -> None:
        """Raises `Invalid` where the authority that signs could not sign for these hosts too. Blocking."""
        authority = signing(state)
        key = self.vault.unseal(authority.spec["key"], authority.id)
        try_authority(authority.spec["certificate"], key, [*hosts_of(state), *more])

    def renew(self, state: State, csr: str, name: str, url: str | None = None) -> tuple[str, CertificateSpec]:
        """As `sign`, for a member, and for the key that it has: who has stolen its token has not got that. `url`: its
        new one, if it has moved. Raises `Invalid`, `Refused`, `NotFound`."""
        node = need(state, "node", name)
        pem, given = self.sign(state, csr, name, url or node.spec["url"], broker_host(node))
        if any(one["key_sha256"] != given.key_sha256 for one in node.spec.get("certificates", ())[:1]):
            raise Refused(f"{name} has another key: a certificate is renewed for the key that it was made for")
        return pem, given

    def authority(self, certificate: str, key: str, id_: str, *, signs: bool = False) -> AuthoritySpec:
        """What the state holds of an authority: its key sealed."""
        return AuthoritySpec(certificate=certificate, key=self.vault.seal(key, id_), signs=signs)

    @staticmethod
    def ca_fingerprint(state: State) -> str:
        """Of the authority that signs: what a one-time token pins."""
        return fingerprint(signing(state).spec["certificate"])

    # ── members that come and go ──

    def given_to_node(self, state: State, certificate: str, url: str, *, own_broker: bool) -> dict[str, Any]:
        """What a new provider at `url` needs to know. No secret: it has made those itself, and data keys come with the
        state. `own_broker`: whether its own is one of the cluster's."""
        broker = self.settings.broker.model_dump(mode="json", exclude_defaults=True, exclude={"username"})
        management = self.settings.broker.management
        if management is not None and not own_broker and is_loopback(management) and not is_loopback(url):
            del broker["management"]  # on its host that would be nothing, or a stranger's
        return {
            "certificate": certificate,
            "ca": bundle(state),
            "broker": broker,
            "configuration": set_apart(self.settings),
        }

    def without(self, state: State, *gone: str) -> tuple[str, KeySpec, dict[str, CredentialSpec]]:
        """For the removal of nodes: the id of the next data key, the key wrapped for all others, and new passwords in
        the place of those that they knew, sealed with that key. Raises `Invalid`."""
        id_, key = f"k{max(int(one.id[1:]) for one in state.of('key')) + 1}", new_data_key()
        others = [one for one in state.of("node") if one.id not in gone]
        wrapped = {one.id: wrap(key, one.spec["public_key"], id_) for one in others}
        vault, credentials = self.vault.with_key(id_, key), {}
        known = state.get("credential", BROKER_ADMIN)
        if known is not None:
            passwords = [self.vault.unseal(sealed, BROKER_ADMIN) for sealed in known.spec["passwords"]]
            # Nobody writes down which of them the broker has: one that cannot be reached now may miss several. The last
            # one is what it began with, and would begin with again if it were made anew.
            kept = [new_token("node").secret, *passwords[: PASSWORDS_MAX - 2], *passwords[PASSWORDS_MAX - 2 :][-1:]]
            credentials[BROKER_ADMIN] = CredentialSpec(
                username=known.spec["username"], passwords=tuple(vault.seal(one, BROKER_ADMIN) for one in kept)
            )
        if state.get("credential", BROKER_COOKIE) is not None:
            credentials[BROKER_COOKIE] = sealed_cookie(vault, new_token("node").secret)
        return id_, KeySpec(wrapped=wrapped), credentials

    def broker_names(self, state: State) -> set[str]:
        """Users of the broker that are the providers' own: no agent can be called so."""
        known = state.get("credential", BROKER_ADMIN)
        return {self.settings.broker.username, *((known.spec["username"],) if known is not None else ())}

    def broker_admin(self, state: State) -> list[tuple[str, str]]:
        """User names and passwords for the broker's management API, the one that should be good first."""
        known = state.get("credential", BROKER_ADMIN)
        if known is None:
            return []
        return [(known.spec["username"], self.vault.unseal(one, BROKER_ADMIN)) for one in known.spec["passwords"]]


def sealed_cookie(vault: Vault, cookie: str) -> CredentialSpec:
    """What the state holds of the brokers' Erlang cookie."""
    return CredentialSpec(username="rabbit", passwords=(vault.seal(cookie, BROKER_COOKIE),))


def broker_cookie(vault: Vault, state: State) -> str | None:
    """The brokers' Erlang cookie; None where Bellwether does not administer them. Raises `Invalid`."""
    known = state.get("credential", BROKER_COOKIE)
    return None if known is None else vault.unseal(known.spec["passwords"][0], BROKER_COOKIE)


def certificate_days(state: State) -> float:
    """Days that a node's certificate is to live."""
    setting = state.get("setting", CERTIFICATE_DAYS)
    return float(setting.spec["value"]) if setting is not None else pki.NODE_DAYS


def _url(node: Document) -> str:
    return str(node.spec["url"])
