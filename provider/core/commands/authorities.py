"""Certificate authorities, and the certificates that they sign.

An authority is replaced in two steps, with no moment in which anybody is refused: first the new one is trusted by all,
beside the old one, and then signs; when nothing that the old one signed is in use any more, it is dropped.
"""

from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.base import Plan, delete, need, put
from provider.core.documents import Document
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Refused

AUTHORITIES_MAX = 3
"""Each is in every agent's trust, and every handshake names them all."""


def signing(state: State) -> Document:
    """The authority that signs. Raises `Refused` where there is none."""
    found = next((authority for authority in state.of("authority") if authority.spec["signs"]), None)
    if found is None:
        raise Refused("the cluster has no authority that signs")
    return found


def _signs(authority: Document, signs: bool) -> Change:
    spec = docs.AuthoritySpec.model_validate({**authority.spec, "signs": signs})
    return put("authority", authority.id, spec)


@dataclass(frozen=True, slots=True)
class AddAuthority:
    """Trust one more authority. It does not sign yet."""

    id: str
    spec: docs.AuthoritySpec

    def plan(self, state: State, now: int) -> Plan:
        known = state.of("authority")
        if any(authority.id == self.id for authority in known):
            raise Conflict(f"authority {self.id} is trusted already")
        waiting = [authority.id for authority in known if authority.created_at > signing(state).created_at]
        if waiting:
            raise Refused(f"authority {waiting[0]} has not begun to sign yet: one after the other")
        if len(known) >= AUTHORITIES_MAX:
            raise Refused(f"{len(known)} authorities are trusted, the most there may be: drop an old one first")
        return Plan(201, ("authority", self.id), (put("authority", self.id, self.spec),))


@dataclass(frozen=True, slots=True)
class SignWith:
    """From now on this authority signs. The caller has seen to it that everybody trusts it."""

    id: str

    def plan(self, state: State, now: int) -> Plan:
        authority = need(state, "authority", self.id)
        if authority.spec["signs"]:
            return Plan(200, ("authority", self.id))
        changes = (_signs(signing(state), False), _signs(authority, True))
        return Plan(200, ("authority", self.id), changes)


@dataclass(frozen=True, slots=True)
class DropAuthority:
    """Trust an authority no more."""

    id: str

    def plan(self, state: State, now: int) -> Plan:
        authority = need(state, "authority", self.id)
        if authority.spec["signs"]:
            raise Refused(f"authority {self.id} signs the cluster's certificates: `provider ca rotate` first")
        using = [
            node.id
            for node in state.of("node")
            if any(one["authority"] == self.id for one in node.spec.get("certificates", ())[:1])
        ]
        if using:
            raise Refused(f"certificates of authority {self.id} are still in use by {', '.join(using)}: wait for them")
        return Plan(204, None, (delete("authority", self.id),))


@dataclass(frozen=True, slots=True)
class RenewCertificate:
    """Write down the certificate that a node was given. The one before it stays good until the next."""

    node: str
    certificate: docs.CertificateSpec

    def plan(self, state: State, now: int) -> Plan:
        node = need(state, "node", self.node)
        if self.certificate.authority != signing(state).id:
            raise Conflict("another authority has just begun to sign: ask again")
        before = node.spec.get("certificates", ())[:1]
        spec = docs.NodeSpec.model_validate({**node.spec, "certificates": [self.certificate, *before]})
        return Plan(200, ("node", self.node), (put("node", self.node, spec),))
