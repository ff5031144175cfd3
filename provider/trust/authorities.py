"""Whom the cluster trusts: what follows from the authorities and certificates in the state. Pure."""

from collections.abc import Mapping

from provider.core.commands import signing
from provider.core.documents import Document
from provider.core.state import State
from provider.trust import pki
from shared.errors import Invalid
from shared.tls import fingerprint, trust_of

ID_DIGITS = 16
"""Of an authority's id: the first digits of its certificate's SHA-256."""


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
    certificate = pki.read_der(der)
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
    """Why a node's certificate is to be replaced now; None where it is good. `days` is how long one is to live."""
    authority = authority_of(state, certificate)
    if authority is None:
        return "it is not on record"
    if authority != signing(state).id:
        return "another authority signs now"
    if days_left < days / 3:
        return f"{days_left:.1f} days are left of {days:g}"
    if certificate.days > days * 1.01 + 1:  # backdated by an hour
        return f"it was made for {certificate.days:.0f} days, and {days:g} are wanted"
    return None


def waiting(state: State) -> Document | None:
    """The authority that is trusted to sign soon, if there is one."""
    now = signing(state)
    return next((one for one in trusted(state) if one.created_at > now.created_at), None)


def untrusting_nodes(state: State, trusts: Mapping[str, str | None]) -> list[str]:
    """Members that have not said that they trust what is to be trusted. `trusts`: what each said last."""
    wanted = trust_of(bundle(state))
    return [node.id for node in state.of("node") if trusts.get(node.id) != wanted]


def checked_authority(certificate_pem: str, key_pem: str) -> str:
    """The id of an authority that a user brings. Raises `Invalid` where it cannot serve."""
    pki.check_authority(certificate_pem, key_pem)
    try:
        return authority_id(certificate_pem)
    except ValueError as error:
        raise Invalid(f"authority: {error}") from None
