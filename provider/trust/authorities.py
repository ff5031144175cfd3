"""Whom the cluster trusts: what follows from the authorities and certificates in the state. Pure."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from provider.core.commands import more_hosts, signing
from provider.core.documents import BrokerNode, Document
from provider.core.state import State
from provider.settings import certificate_hosts
from provider.trust import pki
from provider.trust.trial import try_authority
from shared.errors import Invalid
from shared.tls import fingerprint, first_certificate, trust_of

ID_DIGITS = 16
"""Of an authority's id: the first digits of its certificate's SHA-256."""
WORTH_IT = 1.5
"""How many times as long as is left a new certificate has to live. Else nodes of an authority that ends soon would do
nothing but renew theirs."""


def authority_id(certificate_pem: str) -> str:
    """Raises `ValueError` where it is no certificate."""
    return fingerprint(certificate_pem)[:ID_DIGITS]


def trusted(state: State) -> list[Document]:
    """All authorities, the one that signs first, then the newest."""
    return sorted(state.of("authority"), key=lambda one: (not one.spec["signs"], -one.created_at, one.id))


def bundle(state: State) -> str:
    """The certificates of all authorities, PEM: what nodes and agents are to trust."""
    return "".join(authority.spec["certificate"].strip() + "\n" for authority in trusted(state))


def peer_node(state: State, der: bytes | None) -> str | None:
    """The member that holds this certificate: the one it was given last, or the one before, by an authority that is
    still trusted. None for anybody else: removed, replaced, or not a node's at all."""
    if der is None:
        return None
    try:
        certificate = pki.read_der(der)
    except Invalid:  # OpenSSL has accepted what we cannot read: an authority that a user brought signs for others, too
        return None
    node = state.get("node", certificate.name)
    if node is None:
        return None
    for good in node.spec.get("certificates", ()):
        if good["sha256"] == certificate.sha256 and state.get("authority", good["authority"]) is not None:
            return node.id
    return None


def authority_of(state: State, certificate: pki.Certificate) -> str | None:
    """The id of the authority that a node's certificate was recorded with."""
    node = state.get("node", certificate.name)
    for one in node.spec.get("certificates", ()) if node is not None else ():
        if one["sha256"] == certificate.sha256:
            return str(one["authority"])
    return None


def why_renew(state: State, certificate: pki.Certificate, days: float, days_left: float) -> str | None:
    """Why a node's certificate is to be replaced now; None where it is good, or as good as it gets: none lives longer
    than the authority that signs it. `days` is how long one is to live."""
    authority, signer = authority_of(state, certificate), signing(state)
    node = state.get("node", certificate.name)
    if authority is None or node is None:
        return "it is not on record"
    if authority != signer.id:
        return "another authority signs now"
    ends = pki.read_certificate(signer.spec["certificate"]).not_after
    could_be = min(days, days_left + (ends - certificate.not_after) / timedelta(days=1))
    if days_left < days / 3 and could_be > max(0.0, WORTH_IT * days_left):
        return f"{days_left:.1f} days are left of {days:g}"
    if certificate.days > days * 1.01 + 1:  # backdated by an hour
        return f"it was made for {certificate.days:.0f} days, and {days:g} are wanted"
    wanted = pki.host_names(node_hosts(state, node.spec["url"], broker_host(node)))
    if wanted != certificate.hosts:
        changed = ", ".join(sorted(wanted ^ certificate.hosts))
        return f"it is to be for other hosts than it is: {changed}"
    return None


def waiting(state: State) -> Document | None:
    """The authority that is trusted to sign soon, if there is one."""
    now = signing(state)
    return next((one for one in trusted(state) if one.created_at > now.created_at), None)


def untrusting_nodes(state: State, trusts: Mapping[str, str | None]) -> list[str]:
    """Members that have not said that they trust what is to be trusted. `trusts`: what each said last."""
    wanted = trust_of(bundle(state))
    return [node.id for node in state.of("node") if trusts.get(node.id) != wanted]


def checked_authority(certificate_pem: str, key_pem: str, hosts: Iterable[str]) -> tuple[str, str]:
    """The id and the certificate, PEM, of an authority that a user brings to sign for `hosts`: the first in the file,
    alone, since whoever signed that one is not to be trusted for it. Blocking. Raises `Invalid` where it cannot serve.
    """
    try:
        certificate = first_certificate(certificate_pem)
    except ValueError:
        raise Invalid("authority: not the certificate of an authority (no PEM)") from None
    pki.check_authority(certificate, key_pem)
    try_authority(certificate, key_pem, hosts)
    return authority_id(certificate), certificate


def hosts_of(state: State) -> list[str]:
    """What the members' certificates are for."""
    return sorted(
        {host for node in state.of("node") for host in node_hosts(state, node.spec["url"], broker_host(node))}
    )


def node_hosts(state: State, url: str, broker: str | None) -> tuple[str, ...]:
    """What the certificate of the node at `url` is for. `broker`: its host's name among brokers, which check it when
    they talk to each other."""
    return (*certificate_hosts(url), *((broker,) if broker is not None else ()), *more_hosts(state))


def broker_host(node: Document) -> str | None:
    """The name of a node's host among brokers; None where its broker is not ours."""
    broker = node.spec.get("broker")
    return None if broker is None else BrokerNode.model_validate(broker).host
