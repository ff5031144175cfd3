"""How often a client may ask, and from where it is said to ask: in the whole application."""

from collections.abc import Iterator

import pytest

from provider.api.http.guard import Guard
from tests.support.apis import ApiNode

FORWARDED = "X-Forwarded-For"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("p1")) as node:
        yield node


@pytest.fixture
def p1(node: ApiNode) -> Iterator[ApiNode]:
    """With small buckets that hardly fill."""
    limits = {"requests_per_s": 0.001, "requests_burst": 5, "unauthenticated_per_s": 0.001, "unauthenticated_burst": 3}
    api = node.settings.api.model_copy(update={**limits, "streams_per_client": 1, "trusted_proxies": ("10.0.0.0/8",)})
    before, node.context.guard = node.context.guard, Guard(api)
    yield node
    node.context.guard = before


def statuses(
    p1: ApiNode, times: int, *, token: str | None = "", source: str = "192.0.2.1", **headers: str
) -> list[int]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    path = "/cluster" if token is not None else "/health/live"
    return [p1.ask("GET", path, token=token, source=source, headers=sent).status for _ in range(times)]


def test_a_token_that_asks_too_often_is_told_to_wait_and_no_other_is(p1: ApiNode) -> None:
    made = p1.ask("POST", "/tokens", {"role": "viewer"})
    assert made.status == 201, made
    assert statuses(p1, 5) == [200, 200, 200, 200, 429]
    said = p1.ask("GET", "/cluster")
    assert (said.code, said.headers["retry-after"]) == ("too_many_requests", "1")
    assert "requests_per_s" in said.json["detail"]
    assert statuses(p1, 1, token=made.json["token"]) == [200], "from the same address"
    assert p1.context.guard.limited == {"requests": 2}


def test_whoever_needs_no_token_is_counted_by_address(p1: ApiNode) -> None:
    assert statuses(p1, 6, token=None) == [200] * 5 + [429]
    assert statuses(p1, 1, token=None, source="192.0.2.2") == [200]
    assert statuses(p1, 1) == [200]


def test_bad_tokens_in_a_row_hold_back_bad_tokens_alone(p1: ApiNode) -> None:
    assert statuses(p1, 5, token="bw.admin.a.b") == [401, 401, 401, 429, 429]
    assert statuses(p1, 1) == [200], "a good one from the same address"
    assert statuses(p1, 1, token="bw.admin.a.b", source="192.0.2.2") == [401]
    assert p1.context.guard.limited == {"unauthenticated": 2}


def test_the_address_behind_a_trusted_proxy_counts_and_nobody_else_can_say_one(p1: ApiNode) -> None:
    for n in range(5):
        assert statuses(p1, 1, token=None, source="10.0.0.1", X_Forwarded_For=f"198.51.100.7, 192.0.2.{n}") == [200]
    assert statuses(p1, 6, token=None, source="10.0.0.1", X_Forwarded_For="198.51.100.7")[-1] == 429
    lying = [statuses(p1, 1, token=None, source="192.0.2.99", X_Forwarded_For=f"192.0.2.{n}")[0] for n in range(6)]
    assert lying == [200] * 5 + [429]


def test_limits_that_were_met_are_counted_for_prometheus(node: ApiNode) -> None:
    node.context.guard.refused["silent"] += 3
    node.context.guard.limited["requests"] += 2
    page = node.ask("GET", "/metrics", token=None).body.decode()
    assert 'bellwether_refused_connections_total{reason="silent"} 3.0' in page
    assert 'bellwether_limited_total{what="requests"} 2.0' in page
    assert "bellwether_connections 0.0" in page


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/metrics", "/api/leader-check", "/cluster", "/events"]
)
def test_head_is_possible_wherever_get_is(node: ApiNode, path: str) -> None:
    said = node.ask("HEAD", path)
    assert said.status == 200, said
    if path not in ("/events", "/metrics"):
        assert said.headers["content-length"] == node.ask("GET", path).headers["content-length"]
    assert said.headers["content-type"]
    assert node.context.guard._streams.total() == 0


def test_head_is_not_possible_where_get_is_not(node: ApiNode) -> None:
    assert node.ask("HEAD", "/failover").status in (404, 405)
    assert "head" not in str(node.ask("GET", "/openapi.json").json["paths"]["/api/v1/cluster"].keys())
    assert node.ask("HEAD", "/cluster", token=None).status == 401


def test_a_body_that_is_nested_too_deep_is_refused_by_its_brackets_alone(node: ApiNode) -> None:
    value: object = []
    for _ in range(63):
        value = [value]
    assert node.ask("PUT", "/settings/user.deep", {"value": value}).status == 201
    said = node.ask("PUT", "/settings/user.deep", {"value": [value]})
    assert (said.status, said.code) == (422, "invalid")
    assert "64 levels" in said.json["detail"]
