"""Invariant: one idempotency key, one write. The same request again, on any node, gets the first answer, status and
body; another request under that key is refused; and what was done stays done once."""

import threading
from uuid import uuid4

from localcluster.api import Answer
from localcluster.cluster import Cluster

from tests.support.api import Client, client
from tests.support.nodes import events, primary_of, standbys_of


def test_the_same_key_gets_the_first_answer_on_any_node(cluster: Cluster) -> None:
    for first in cluster.providers:
        key, path = uuid4().hex, f"/settings/user.once.{first}"
        made = client(cluster, first).put(path, {"value": 1}, Idempotency_Key=key)
        assert made.status == 201
        client(cluster, first).write("PUT", path, {"value": 2})
        for name in cluster.providers:
            again = client(cluster, name).put(path, {"value": 1}, Idempotency_Key=key)
            assert (again.status, again.body) == (201, made.body), "the first answer, though the document has changed"
            assert again.headers["etag"] == made.headers["etag"]
        assert client(cluster, first).read(path)["spec"]["value"] == 2


def test_a_key_used_on_a_standby_holds_on_the_primary_and_the_other_way_round(cluster: Cluster) -> None:
    leader, standby = client(cluster, primary_of(cluster)), client(cluster, standbys_of(cluster)[0])
    for one, two in ((leader, standby), (standby, leader)):
        key, path = uuid4().hex, f"/settings/user.both.{uuid4().hex}"
        made = one.put(path, {"value": 1}, Idempotency_Key=key)
        gone = one.delete(path, Idempotency_Key=f"{key}-gone")
        assert (made.status, gone.status) == (201, 204)
        assert two.put(path, {"value": 1}, Idempotency_Key=key).body == made.body
        assert (two.get(path).status, two.delete(path, Idempotency_Key=f"{key}-gone").status) == (404, 204)


def test_another_request_under_the_same_key_is_refused(node: Client, other: Client) -> None:
    key = uuid4().hex
    path = f"/settings/user.{uuid4().hex}"
    etag = node.write("PUT", path, {"value": 1}, Idempotency_Key=key).headers["etag"]
    for one in (node, other):
        for answer in (
            one.put(path, {"value": 2}, Idempotency_Key=key),
            one.put(path, b'{"value":1 }', Idempotency_Key=key),
            one.put(f"{path}.x", {"value": 1}, Idempotency_Key=key),
            one.put(path, {"value": 1}, Idempotency_Key=key, If_Match=etag),
            one.put(path, {"value": 1}, Idempotency_Key=key, If_None_Match="*"),
            one.delete(path, Idempotency_Key=key),
            one.put("/instances/db1/databases/x", {}, Idempotency_Key=key),
        ):
            assert (answer.status, answer.code) == (422, "invalid")
            assert "Idempotency-Key" in answer.json["detail"]
    assert node.read(path)["spec"]["value"] == 1
    assert node.get("/instances/db1/databases/x").status == 404


def test_keys_belong_to_their_user(node: Client) -> None:
    key, path = uuid4().hex, f"/settings/user.{uuid4().hex}"
    someone = node.holding(node.write("POST", "/tokens", {"role": "operator"}).json["token"])
    assert node.put(path, {"value": "mine"}, Idempotency_Key=key).status == 201
    assert someone.put(path, {"value": "theirs"}, Idempotency_Key=key).status == 200
    assert node.read(path)["spec"]["value"] == "theirs"


def test_a_refusal_uses_no_key_up(node: Client) -> None:
    key, path = uuid4().hex, f"/settings/user.{uuid4().hex}"
    assert node.delete(path, Idempotency_Key=key).status == 404
    node.write("PUT", path, {"value": 1})
    assert node.delete(path, Idempotency_Key=key).status == 204
    assert node.delete(path, Idempotency_Key=key).status == 204, "the same answer again, though it is gone"


def test_a_crowd_with_one_key_on_all_nodes_writes_once(cluster: Cluster) -> None:
    key, path = uuid4().hex, f"/settings/user.{uuid4().hex}"
    before = client(cluster, primary_of(cluster)).read("/cluster")["revision"]
    answers: list[Answer] = []
    together = threading.Barrier(9)

    def ask(name: str) -> None:
        one = client(cluster, name)
        together.wait()
        answers.append(one.put(path, {"value": "x"}, Idempotency_Key=key))

    threads = [threading.Thread(target=ask, args=(name,)) for name in cluster.providers for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    told = [c["id"] for e in events(client(cluster, primary_of(cluster)), before) for c in e["changes"]]
    assert told.count(path.removeprefix("/settings/")) == 1
