"""Invariant: every node answers every route alike; whoever asks a standby must not notice that it is one."""

import json
import re
from typing import Any

import pytest
from localcluster.cluster import Cluster
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Client, client
from tests.support.nodes import primary_of, standbys_of

PROMISED = {
    "/cluster": {"get"},
    "/nodes": {"get"},
    "/nodes/{name}": {"get", "put", "delete"},
    "/agents": {"get"},
    "/agents/{agent}": {"get", "delete"},
    "/agents/{agent}/advise": {"post"},
    "/agents/{agent}/credential": {"post"},
    "/agents/advise": {"post"},
    "/instances": {"get"},
    "/instances/{instance}": {"get"},
    "/instances/{instance}/databases": {"get"},
    "/instances/{instance}/databases/{name}": {"get", "put", "delete"},
    "/instances/{instance}/accounts": {"get"},
    "/instances/{instance}/accounts/{name}": {"get", "put", "delete"},
    "/settings": {"get"},
    "/settings/{key}": {"get", "put", "delete"},
    "/events": {"get"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/health/primary": {"get"},
    "/health/standby": {"get"},
    "/metrics": {"get"},
}


# ── the way of a document ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_setting_is_made_read_changed_and_deleted_through_any_node(node: Client, other: Client) -> None:
    path = "/settings/user.story"
    made = node.put(path, {"value": {"a": [1, None, "ü"]}})
    assert made.status == 201
    assert made.json["spec"] == {"value": {"a": [1, None, "ü"]}}
    assert made.headers["etag"] == f'"{made.json["revision"]}"'
    assert made.json["created_at"] == made.json["updated_at"]

    assert node.read(path) == made.json, "a client reads its own write on the node that it wrote through, at once"
    assert other.read(path, Bellwether_Min_Revision=str(made.json["revision"])) == made.json

    assert node.put(path, {"value": {"a": [1, None, "ü"]}}).json == made.json, "the same again changes nothing"
    changed = node.put(path, {"value": 2})
    assert (changed.status, changed.json["spec"]["value"]) == (200, 2)
    assert changed.json["revision"] > made.json["revision"]
    assert changed.json["created_at"] == made.json["created_at"]

    gone = node.delete(path)
    assert (gone.status, gone.body) == (204, b"")
    assert (node.get(path).status, node.get(path).code) == (404, "not_found")
    assert (node.delete(path).status, node.delete(path).code) == (404, "not_found")


def test_of_two_writers_with_the_same_etag_one_wins(node: Client) -> None:
    path = "/settings/user.contested"
    etag = node.write("PUT", path, {"value": 0}, If_None_Match="*").headers["etag"]
    assert node.put(path, {"value": "again"}, If_None_Match="*").code == "stale_revision"

    first, second = node.put(path, {"value": 1}, If_Match=etag), node.put(path, {"value": 2}, If_Match=etag)
    assert (first.status, second.status, second.code) == (200, 412, "stale_revision")
    assert node.read(path)["spec"]["value"] == 1

    assert node.get(path, If_None_Match=first.headers["etag"]).status == 304
    assert node.get(path, If_None_Match=etag).status == 200
    assert node.delete(path, If_Match=etag).status == 412
    assert node.delete(path, If_Match=first.headers["etag"]).status == 204
    assert node.put(path, {"value": 3}, If_Match=etag).status == 412, "what does not exist has no revision"


def test_every_answer_says_who_gave_it_and_from_which_state(cluster: Cluster) -> None:
    leader = primary_of(cluster)
    for name in cluster.providers:
        asked = client(cluster, name)
        nobody = asked.holding(None)
        answers = [
            asked.get("/cluster"),
            asked.get("/settings/user.nothing"),
            asked.put("/settings/user.stamped", {"value": name}),
            asked.put("/settings/user.stamped", b"no json"),
            asked.get("/nowhere"),
            nobody.get("/cluster"),
            nobody.get("/health/live"),
        ]
        assert [a.status for a in answers] == [200, 404, answers[2].status, 422, 404, 401, 200]
        for answer in answers:
            headers = answer.headers
            assert headers["bellwether-node"] == name
            assert headers["bellwether-role"] == ("primary" if name == leader else "standby")
            assert int(headers["bellwether-epoch"]) >= 1
            assert int(headers["bellwether-revision"]) >= 1
        assert int(answers[2].headers["bellwether-revision"]) >= answers[2].json["revision"]


def test_errors_are_problem_documents(node: Client) -> None:
    for answer, status, code in (
        (node.get("/settings/user.nothing"), 404, "not_found"),
        (node.get("/nowhere"), 404, "not_found"),
        (node.put("/settings/user.x", b"{"), 422, "invalid"),
        (node.request("PATCH", "/cluster"), 405, "invalid"),
        (node.put("/instances/nowhere/databases/x", {}), 404, "not_found"),
        (node.holding(None).get("/cluster"), 401, "unauthenticated"),
    ):
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json
        assert (problem["status"], problem["code"], problem["retryable"]) == (status, code, False)
        assert problem["title"]
        assert problem["detail"]


# ── collections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_collection_is_read_page_by_page(node: Client) -> None:
    names = [f"user.page.{letter}" for letter in "abcde"]
    for name in names:
        node.write("PUT", f"/settings/{name}", {"value": name})
    found, after = [], ""
    for expected in (2, 2, 1):
        page = node.read(f"/settings?prefix=user.page.&limit=2{after}")
        assert len(page["items"]) == expected
        assert page["revision"] >= 1
        found += [item["id"] for item in page["items"]]
        after = f"&after={page['next']}"
    assert page["next"] is None
    assert found == names
    assert node.read("/settings?prefix=user.page.&after=user.page.e")["items"] == []


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "", "9" * 5000])
def test_a_limit_that_is_none_is_refused(node: Client, limit: str) -> None:
    assert node.get(f"/settings?limit={limit}").code == "invalid"


def test_filters(node: Client) -> None:
    def ids(path: str) -> list[str]:
        """Without the instances that stayed when other tests' agents went."""
        items = node.read(f"{path}{'&' if '?' in path else '?'}limit=1000")["items"]
        return [item["id"] for item in items if not item["id"].startswith("rogue")]

    assert ids("/agents?state=online") == ids("/agents?advised=true") == ids("/agents") == ["db1"]
    assert ids("/agents?state=offline") == ids("/agents?state=never") == ids("/agents?advised=false") == []
    assert ids("/instances?state=up") == ids("/instances?agent=db1") == ["db1"]
    assert ids("/instances?state=down") == ids("/instances?agent=db2") == []


@pytest.mark.parametrize("query", ["/agents?state=Online", "/agents?advised=maybe", "/instances?state=broken"])
def test_a_filter_that_can_never_match_is_refused_rather_than_answered_with_nothing(node: Client, query: str) -> None:
    assert node.get(query).code == "invalid"


# ── the cluster ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cluster_at_a_glance(cluster: Cluster, node: Client) -> None:
    leader = primary_of(cluster)
    found = node.wait_for("/cluster", lambda c: all(n["state"] == "active" for n in c["nodes"]))
    assert found["primary"] == leader
    assert (found["epoch"], len(found["generation"]), len(found["id"])) == (1, 16, 36)
    assert {n["name"]: n["role"] for n in found["nodes"]} == {
        name: "primary" if name == leader else "standby" for name in cluster.providers
    }
    assert all(n["version"] and n["lag"] is not None and n["revision"] for n in found["nodes"])
    assert found["agents"] == {"total": 1, "online": 1, "advised": 1, "missing": []}
    endpoint = cluster.broker.endpoint
    assert found["agents_at"] == [{"endpoint": endpoint, "agents": 1, "preferred": True}]
    assert found["warnings"] == []


def test_nodes_agents_and_instances_tell_how_they_are(cluster: Cluster, node: Client) -> None:
    for name, provider in cluster.providers.items():
        one = node.wait_for(f"/nodes/{name}", lambda n: n["status"]["state"] == "active")
        assert (one["kind"], one["id"], one["spec"]["url"]) == ("node", name, provider.url)
    assert [n["id"] for n in node.read("/nodes")["items"]] == list(cluster.providers)

    agent = node.wait_for("/agents/db1", lambda a: a["status"]["last_seen"] is not None)
    assert agent["status"]["state"] == "online"
    assert agent["status"]["advised"] is True
    assert agent["status"]["epoch"] == node.read("/cluster")["epoch"]
    assert agent["status"]["endpoint"] == cluster.broker.endpoint
    assert agent["status"]["version"]

    instance = node.wait_for("/instances/db1", lambda i: "observed" in i["status"])
    assert (instance["spec"]["agent"], instance["spec"]["engine"]) == ("db1", "mariadb")
    status = instance["status"]
    assert (status["state"], status["role"], status["read_only"]) == ("up", "primary", False)
    assert status["version"].startswith("1")
    assert status["uptime_s"] >= 0
    assert status["observed"]["databases"] is not None
    for missing in ("/nodes/p9", "/agents/db9", "/instances/db9", "/instances/db9/databases", "/agents/db9/advice"):
        assert node.get(missing).code == "not_found", missing


def test_agents_are_advised_on_request(node: Client) -> None:
    one = node.post("/agents/db1/advise")
    assert (one.status, one.json["told"]) == (202, ["db1"])
    all_of_them = node.post("/agents/advise")
    assert (all_of_them.status, all_of_them.json["told"]) == (202, []), "nobody lacks it"
    assert node.post("/agents/db9/advise").code == "not_found"


# ── freshness ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_read_waits_for_the_revision_that_it_asks_for(node: Client) -> None:
    revision = node.read("/cluster")["revision"]
    assert node.get("/cluster", Bellwether_Min_Revision=str(revision)).status == 200
    behind = node.get("/cluster", Bellwether_Min_Revision=str(revision + 10**6), Bellwether_Wait="0.1")
    assert (behind.status, behind.code, behind.json["retryable"]) == (503, "behind", True)
    for name, value in (("Min-Revision", "x"), ("Min-Revision", "nan"), ("Min-Revision", "-1"), ("Wait", "soon")):
        headers = {"Bellwether-Min-Revision": str(revision + 10**6), f"Bellwether-{name}": value}
        assert node.request("GET", "/cluster", headers=headers).code == "invalid", (name, value)


# ── probes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_probes_tell_the_primary_from_the_standbys(cluster: Cluster) -> None:
    leader = primary_of(cluster)
    for name in cluster.providers:
        nobody = client(cluster, name).holding(None)
        leads = name == leader
        for prefix in ("", "/api/v1"):
            assert nobody.get(f"{prefix}/health/live").status == 200
            assert nobody.get(f"{prefix}/health/ready").status == 200
            assert nobody.get(f"{prefix}/health/primary").status == (200 if leads else 503)
            assert nobody.get(f"{prefix}/health/standby").status == (503 if leads else 200)
            assert nobody.get(f"{prefix}/health/standby?max_lag=1000").status == (503 if leads else 200)
            assert nobody.get(f"{prefix}/health/standby?max_lag=x").status == 422
        check = nobody.get("/api/leader-check")
        assert (check.status, check.json) == ((200, "OK") if leads else (404, "Not leader"))


def test_metrics_can_be_read_by_prometheus(cluster: Cluster, node: Client) -> None:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(node.holding(None).get("/metrics").body.decode()):
        assert family.documentation
        found |= {sample.name + "".join(sample.labels.values()): sample.value for sample in family.samples}
    assert found["bellwether_revision"] >= 1
    assert found["bellwether_epoch"] == node.read("/cluster")["epoch"]
    assert found["bellwether_primary"] == (node.url == cluster.providers[primary_of(cluster)].url)
    assert found["bellwether_agentsonline"] == found["bellwether_agents_advised"] == 1
    assert found[f"bellwether_agents_at{cluster.broker.endpoint}"] == 1
    assert found["process_resident_memory_bytes"] > 1e6


# ── OpenAPI ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_openapi_document_lists_every_route_and_holds_together(cluster: Cluster) -> None:
    answer = client(cluster, standbys_of(cluster)[0]).holding(None).get("/openapi.json")
    assert answer.status == 200
    document = answer.json
    assert document["openapi"].startswith("3.")
    paths = {_plain(path): set(item) for path, item in document["paths"].items()}
    assert {path: methods for path, methods in PROMISED.items() if not methods <= paths.get(path, set())} == {}
    assert "/api/leader-check" in document["paths"]

    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'"\$ref": ?"([^"]*)"', json.dumps(document)):
        _resolve(document, reference)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            names = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
            assert names == set(re.findall(r"{(\w+)}", path)), (method, path)
            assert operation["responses"], (method, path)


def _plain(path: str) -> str:
    return path.removeprefix("/api/v1")


def _resolve(document: Any, reference: str) -> None:
    assert reference.startswith("#/"), reference
    for part in reference.removeprefix("#/").split("/"):
        assert part in document, f"{reference} points to nothing"
        document = document[part]
