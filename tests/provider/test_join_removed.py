"""The cluster goes on while a host joins: others are removed, for which brokers get another cookie, or it itself is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from provider.broker.host.handshake import NotLetIn
from provider.core.commands import put
from provider.core.documents import BrokerNode, KeySpec
from provider.core.entries import Change
from provider.core.state import State
from provider.founding import Place
from provider.joining import join
from provider.joining.host import SystemdUnit
from provider.joining.join import Admission, among_brokers
from provider.joining.journal import begin
from provider.joining.steps import Steps
from provider.settings import ApiSettings
from provider.snapshot import write_snapshot
from provider.trust.vault import Vault, new_data_key, public_key
from shared.errors import Refused
from tests.support.answering import AUTHORITY, AUTHORITY_PEM, Asked, answering

NOT_GOOD = json.dumps({"code": "unauthenticated", "detail": "this token is not good", "retryable": False})


class Broker:
    """Implements `OwnBroker`: the others let it in with the cookie that stands in the state of that log."""

    def __init__(self, log: str) -> None:
        self.log = log
        self.tried: list[str] = []

    def look(self, url: str) -> BrokerNode:
        raise AssertionError

    def join(self, state: State, name: str, vault: Vault) -> str:
        self.tried.append(state.generation)
        if state.generation != self.log:
            raise NotLetIn("rabbit@p1 does not accept the cluster's Erlang cookie")
        return "joined"

    def replicate(self, generation: str) -> str:
        raise AssertionError


@dataclass
class Cluster:
    """What it answers to whatever it is asked."""

    status: int = 200
    answer: str = ""

    def said(self, _: Asked) -> tuple[int, str]:
        return self.status, self.answer


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def admission(tmp_path: Path, cluster: Cluster) -> Iterator[Admission]:
    """Of a host that was let in."""
    place = Place(tmp_path / "provider.toml", "p4", "https://127.0.0.1:1")
    own = AUTHORITY.issue_cert("p4")
    place.files.ca.write_text(AUTHORITY_PEM)
    own.private_key_pem.write_to_path(place.files.key)
    own.cert_chain_pems[0].write_to_path(place.files.certificate)
    journal = begin(place.files.join, "p4")
    place.files.node_token.write_text(journal.token)
    with answering(cluster.said) as url:
        yield Admission(place, url, "", journal)


def state(admission: Admission, log: str, *members: str) -> State:
    nodes = [Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in members]
    wrapped = Vault({"k1": new_data_key()}).wrapped_for(public_key(admission.journal.secrets_key))
    key = put("key", "k1", KeySpec(wrapped={"p4": wrapped["k1"]}))
    return State.genesis(generation=log, primary="p1", now=0, changes=(*nodes, key))


def text(state: State) -> str:
    return "\n".join(write_snapshot(state, None)) + "\n"


def test_where_somebody_was_removed_meanwhile_it_tries_with_the_cookie_that_there_is_by_then(
    cluster: Cluster, admission: Admission
) -> None:
    before, after = state(admission, "before", "p1", "p2", "p4"), state(admission, "after", "p1", "p4")
    cluster.answer = text(after)
    broker = Broker("after")
    assert among_brokers(broker, admission, before, Steps()) == "joined"
    assert broker.tried == ["before", "after"]


def test_a_broker_that_has_no_new_cookie_is_named_in_the_end(
    cluster: Cluster, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "COOKIE_S", 0.0)
    before = state(admission, "before", "p1", "p4")
    cluster.answer = text(before)
    with pytest.raises(NotLetIn, match="rabbit@p1"):
        among_brokers(Broker("another"), admission, before, Steps())


@pytest.mark.parametrize("told", ["its token is not good", "it is not in the state"])
def test_where_it_was_removed_itself_it_says_so(cluster: Cluster, admission: Admission, told: str) -> None:
    if told == "its token is not good":
        cluster.status, cluster.answer = 401, NOT_GOOD
    else:
        cluster.answer = text(state(admission, "after", "p1"))
    broker = Broker("after")
    with pytest.raises(Refused, match="p4 was removed from the cluster while it joined"):
        among_brokers(broker, admission, state(admission, "before", "p1", "p4"), Steps())
    assert broker.tried == ["before"]


REMOVED = json.dumps({"nodes": [{"name": "p4", "state": "removed", "reason": "it was removed"}]})


@pytest.mark.parametrize(("status", "answer"), [(200, REMOVED), (401, NOT_GOOD)])
def test_a_daemon_that_finds_itself_removed_is_not_waited_for(
    cluster: Cluster, admission: Admission, status: int, answer: str
) -> None:
    """Told by another member; or it has read so itself, and knows its own token no more."""
    place = admission.place
    cluster.status, cluster.answer = status, answer
    settings = place.settings({"endpoints": ["amqps://127.0.0.1:1"], "username": "node.p4"})
    settings = settings.model_copy(update={"api": ApiSettings(listen=urlsplit(admission.url).netloc)})
    with pytest.raises(Refused, match="p4 was removed from the cluster while it joined"):
        SystemdUnit(config=place.config).wait_standby(settings)
