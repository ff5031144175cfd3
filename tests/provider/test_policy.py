"""Every route says who may call it, and nobody else gets through."""

import time
from collections.abc import Iterator
from threading import Timer

import pytest
from fastapi import Request, Response

from provider.api.access.policy import needs
from provider.api.app import create_app
from provider.api.direct import router
from provider.api.routes import events
from provider.core.commands import PutSetting, PutToken
from provider.core.documents import TokenSpec
from shared.tokens import new_token
from tests.support.apis import ApiNode


@pytest.fixture(scope="module")
def p1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("p1")) as node:
        yield node


def test_a_route_that_says_nothing_is_not_served(p1: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = router("careless")

    @careless.get("/careless")
    async def endpoint(_request: Request) -> Response:
        return Response()

    monkeypatch.setattr(events, "router", careless)
    with pytest.raises(TypeError, match="/api/v1/careless has no policy"):
        create_app(p1.context)


def test_there_is_no_rule_but_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="root"):
        needs("root")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/health/live", "/api/v1/health/live", "/metrics", "/api/v1/metrics", "/api/v1/ca"])
def test_probes_are_for_everyone(p1: ApiNode, path: str) -> None:
    assert p1.ask("GET", path, token=None).status == 200
    assert p1.ask("GET", path, token="nonsense").status == 200


def test_whoever_shows_no_token_learns_nothing(p1: ApiNode) -> None:
    said = p1.ask("GET", "/cluster", token=None)
    assert (said.status, said.code, said.headers["www-authenticate"]) == (401, "unauthenticated", "Bearer")
    assert p1.ask("GET", "/cluster").status == 200


def test_the_openapi_document_says_who_may_call_what(p1: ApiNode) -> None:
    document = p1.ask("GET", "/openapi.json", token=None).json
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) > 30
    for operation in operations:
        assert operation["security"] == ([] if operation["x-role"] == "open" else [{"bearer": []}])
        problem = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
        assert "422" not in operation["responses"]
    assert "Problem" in document["components"]["schemas"]
    assert document["paths"]["/api/v1/tokens"]["get"]["x-role"] == "admin"


def test_a_token_that_is_on_its_way_here_is_waited_for(p1: ApiNode) -> None:
    """It was made on another node a moment ago, and its bearer says which revision it saw there."""
    token = new_token("viewer")
    spec = TokenSpec(role="viewer", sha256=token.hashed, expires_at=None)
    news = {"Bellwether-Min-Revision": str(p1.state.revision + 1)}
    late = Timer(0.2, p1.commit, [PutToken(token.id, spec)])
    late.start()
    assert p1.ask("GET", "/cluster", token=token.text(), headers=news).status == 200
    late.join()


def test_a_stranger_is_not_waited_for_twice(p1: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = new_token("viewer").text()
    news = {"Bellwether-Min-Revision": str(p1.state.revision + 1)}
    late = Timer(0.1, p1.commit, [PutSetting("user.news", time.time())])
    late.start()
    assert p1.ask("GET", "/cluster", token=stranger, headers=news).status == 401
    late.join()
    monkeypatch.setattr("provider.api.access.policy.NEWS_WAIT_S", 3600.0)  # nobody would be that patient
    assert p1.ask("GET", "/cluster", token=stranger, headers={"Bellwether-Min-Revision": "1"}).status == 401
    assert p1.ask("GET", "/cluster", token=None, headers={"Bellwether-Min-Revision": "9" * 18}).status == 401


def test_a_token_that_never_comes_is_answered_with_behind(p1: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.api.access.policy.NEWS_WAIT_S", 0.05)
    news = {"Bellwether-Min-Revision": str(p1.state.revision + 1000)}
    said = p1.ask("GET", "/cluster", token=new_token("admin").text(), headers=news)
    assert (said.status, said.code) == (503, "behind")
    monkeypatch.setattr("provider.api.access.policy.NEWS_WAITING_MAX", 0)
    assert p1.ask("GET", "/cluster", token=new_token("admin").text(), headers=news).status == 401
