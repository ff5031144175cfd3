"""Whom the cluster trusts follows from the state: who is gone, replaced or of another authority is nobody."""

import ssl
from dataclasses import dataclass, field

import pytest

from provider.core.documents import Kind
from provider.core.entries import Change
from provider.core.state import State
from provider.settings import certificate_hosts
from provider.trust import pki
from provider.trust.authorities import authority_id, bundle, peer_node, untrusting_nodes, waiting, why_renew
from shared.tls import trust_of
from tests.support.history import GENERATION, START_MS, accept_entry, commit_of

DAYS = 90.0
URL = "https://10.0.0.1:8443"


@dataclass
class Trust:
    """A state in the making: authorities, and nodes with certificates."""

    state: State = field(
        default_factory=lambda: State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=())
    )
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)

    def put(self, kind: Kind, id_: str, spec: dict[str, object] | None) -> None:
        self.state = accept_entry(self.state, commit_of(Change(kind=kind, id=id_, spec=spec))).state

    def authority(self, *, signs: bool = True) -> str:
        certificate, key = pki.new_ca("test")
        id_ = authority_id(certificate)
        self.keys[id_] = (certificate, key)
        self.put("authority", id_, {"certificate": certificate, "key": "", "signs": signs})
        return id_

    def signs(self, id_: str, signs: bool) -> None:
        self.put("authority", id_, {"certificate": self.keys[id_][0], "key": "", "signs": signs})

    def certificate(
        self, node: str, authority: str, *before: bytes, days: float = DAYS, hosts: tuple[str, ...] = ()
    ) -> bytes:
        """A new certificate for `node`, on record before those in `before`; DER."""
        request = pki.new_request(pki.new_key(), node)
        hosts = hosts or certificate_hosts(URL)
        der = ssl.PEM_cert_to_DER_cert(pki.sign(request, node, hosts, *self.keys[authority], days=days))
        good = [{"sha256": pki.read_der(one).sha256, "authority": authority, "expires_at": 0} for one in (der, *before)]
        self.put("node", node, {"url": URL, "certificates": good})
        return der

    def why(self, der: bytes, *, left: float = DAYS, days: float = DAYS) -> str | None:
        return why_renew(self.state, pki.read_der(der), days, left)


def test_a_member_is_known_by_its_last_certificate_and_the_one_before() -> None:
    trust = Trust()
    ca = trust.authority()
    first = trust.certificate("p1", ca)
    second = trust.certificate("p1", ca, first)
    third = trust.certificate("p1", ca, second)
    assert [peer_node(trust.state, der) for der in (first, second, third)] == [None, "p1", "p1"]
    assert peer_node(trust.state, None) is None
    assert peer_node(trust.state, third[:-9]) is None, "what cannot be read is nobody's"


def test_a_removed_node_is_nobody() -> None:
    trust = Trust()
    der = trust.certificate("p2", trust.authority())
    assert peer_node(trust.state, der) == "p2"
    trust.put("node", "p2", None)
    assert peer_node(trust.state, der) is None


def test_a_certificate_for_a_members_name_that_is_not_on_record_is_nobodys() -> None:
    trust = Trust()
    ca = trust.authority()
    trust.certificate("p1", ca)
    request = pki.new_request(pki.new_key(), "p1")
    stolen = ssl.PEM_cert_to_DER_cert(pki.sign(request, "p1", ("127.0.0.1",), *trust.keys[ca]))
    assert peer_node(trust.state, stolen) is None


def test_a_certificate_of_a_dropped_authority_is_nobodys() -> None:
    trust = Trust()
    old, new = trust.authority(signs=False), trust.authority()
    der = trust.certificate("p1", old)
    assert peer_node(trust.state, der) == "p1"
    trust.put("authority", old, None)
    assert peer_node(trust.state, der) is None
    assert bundle(trust.state).strip() == trust.keys[new][0].strip()


def test_reasons_to_renew_a_certificate() -> None:
    trust = Trust()
    old = trust.authority()
    der = trust.certificate("p1", old)
    assert trust.why(der) is None
    assert "of 90" in str(trust.why(der, left=29.9))
    assert "wanted" in str(trust.why(der, days=30)), "one that lives too long is not kept for that"
    new = trust.authority(signs=False)
    assert trust.why(der) is None
    trust.signs(old, False)
    trust.signs(new, True)
    assert "another authority" in str(trust.why(der))
    trust.put("node", "p1", {"url": URL, "certificates": []})
    assert "record" in str(trust.why(der))


def test_a_certificate_is_renewed_when_it_is_to_be_for_other_hosts() -> None:
    trust = Trust()
    ca = trust.authority()
    der = trust.certificate("p1", ca)
    trust.put("setting", "cluster.certificate_hosts", {"value": ["API.example.org", "10.0.0.9", "::0:1"]})
    assert trust.why(der) == "it is to be for other hosts than it is: 10.0.0.9, ::1, API.example.org"
    more = trust.certificate("p1", ca, hosts=(*certificate_hosts(URL), "::1", "10.0.0.9", "API.example.org"))
    assert trust.why(more) is None, "not again and again, however the hosts are written"
    trust.put("setting", "cluster.certificate_hosts", None)
    assert "other hosts" in str(trust.why(more))


def test_a_certificate_is_renewed_when_its_node_has_another_address() -> None:
    trust = Trust()
    der = trust.certificate("p1", trust.authority(), hosts=certificate_hosts("https://10.0.0.2:8443"))
    assert trust.why(der) == "it is to be for other hosts than it is: 10.0.0.1, 10.0.0.2"


@pytest.mark.parametrize("left", [29.0, 1.0, 0.01, -1.0])
def test_nothing_is_renewed_again_and_again_under_an_authority_that_ends_soon(left: float) -> None:
    trust = Trust()
    ca = trust.authority()
    der = trust.certificate("p1", ca, days=100_000)  # as long as the authority lives, and no longer
    assert trust.why(der, left=left, days=100_000) is None, "a new one would end at the same time"
    shorter = trust.certificate("p1", ca, days=90)
    assert "of 90" in str(trust.why(shorter, left=left)), "a new one would last"


def test_the_authority_that_signs_comes_first_and_a_new_one_waits() -> None:
    trust = Trust()
    old = trust.authority()
    assert waiting(trust.state) is None
    new = trust.authority(signs=False)
    found = waiting(trust.state)
    assert found is not None
    assert found.id == new
    assert bundle(trust.state) == trust.keys[old][0] + trust.keys[new][0]
    trust.signs(old, False)
    trust.signs(new, True)
    assert waiting(trust.state) is None
    assert bundle(trust.state) == trust.keys[new][0] + trust.keys[old][0]


@pytest.mark.parametrize(
    ("told", "missing"), [({}, ["p1", "p2"]), ({"p1": "right"}, ["p2"]), ({"p2": "x"}, ["p1", "p2"])]
)
def test_who_has_not_said_that_it_trusts_is_missing(told: dict[str, str], missing: list[str]) -> None:
    trust = Trust()
    ca = trust.authority()
    trust.certificate("p1", ca)
    trust.certificate("p2", ca)
    right = trust_of(bundle(trust.state))
    assert untrusting_nodes(trust.state, {n: right if said == "right" else said for n, said in told.items()}) == missing
