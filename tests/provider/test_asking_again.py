"""What a command does that a cluster cannot take just now: asks again, as the same request, for as long as was said."""

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from provider.client import Client, Problem, may_help
from provider.joining.patience import patiently
from tests.support.answering import AUTHORITY, Asked, answering


@dataclass
class Cluster:
    """Answers each request with the next of `answers`: a status, a code, whether to ask again."""

    url: str = ""
    answers: list[tuple[int, str, bool]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    """Of what was asked."""

    def answer(self, asked: Asked) -> tuple[int, str]:
        self.keys.append(asked.headers.get("Idempotency-Key"))
        status, code, again = self.answers.pop(0)
        return status, json.dumps({"detail": f"{code} is why", "code": code, "retryable": again})


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    with answering(found.answer) as found.url:
        yield found


def ask(cluster: Cluster, for_s: float, say: list[str]) -> object:
    """As `provider join` asks."""
    tls = ssl.create_default_context()
    AUTHORITY.configure_trust(tls)
    client = Client([cluster.url], token="bw.admin.1.2", tls=tls)
    try:
        key = {"Idempotency-Key": "one"}
        return patiently(lambda: client.request("POST", "/join", {}, headers=key), may_help, say.append, for_s, 0.0)
    finally:
        client.close()


def test_it_is_asked_again_under_one_key_until_it_is_done_and_each_reason_is_told_once(cluster: Cluster) -> None:
    away, unknown = (503, "log_unavailable", True), (504, "outcome_unknown", False)
    cluster.answers, said = [away, away, unknown, (201, "done", False)], []
    assert ask(cluster, 60.0, said) == {"detail": "done is why", "code": "done", "retryable": False}
    assert len(cluster.keys) == 4
    assert {*cluster.keys} == {"one"}
    assert said == ["waiting: log_unavailable is why", "waiting: outcome_unknown is why"]


def test_what_asking_again_cannot_help_is_told_at_once(cluster: Cluster) -> None:
    cluster.answers, said = [(409, "conflict", False)], []
    with pytest.raises(Problem, match="conflict is why"):
        ask(cluster, 60.0, said)
    assert (len(cluster.keys), said) == (1, [])


def test_in_the_end_it_gives_up(cluster: Cluster) -> None:
    cluster.answers = [(503, "log_unavailable", True)]
    with pytest.raises(Problem, match="log_unavailable is why"):
        ask(cluster, 0.0, [])
    assert len(cluster.keys) == 1
