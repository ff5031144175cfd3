"""Invariant: what is secret is in the files that are there for it, which nobody else may read, and nowhere else: in no
other file, log, event, audit, answer, metric, record of the log, and on no command line.

A cluster is given secrets that are known, is used in every way that touches them, and all that it left is searched for
each of them: as it is, and in hex, base64 and as in a URL. What is not secret is found by the same search.
"""

import base64
import json
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from localcluster.cluster import Cluster
from localcluster.layout import ServerFiles
from localcluster.ports import free_ports
from localcluster.process import wait_until
from localcluster.provider import Provider

from provider.trust import pki
from shared.files import write_atomically
from shared.tokens import parse_token
from tests.support.amqp import enrolled
from tests.support.api import Client, client
from tests.support.clusters import running
from tests.support.nodes import command, primary_of, promote, standbys_of

KEY_FILES = {
    *("node.key", "secrets.key", "node.token", "broker.password", "api.token", "admin.token", "curl.header"),
    *("store.password", "credential.json", "credential", "key.pem", ".erlang.cookie"),
}
"""Where secrets may be: each of mode 600, and its directory's owner's."""
MARKER = "not-secret-at-all"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("secretive"), providers=2, databases=1) as cluster:
        yield cluster


def secret(kind: str) -> str:
    """With signs that are written in another way wherever something is quoted."""
    return f'{kind}-{uuid4().hex}/+ %"é'


def body_of(pem: str) -> str:
    """A line in the middle of a private key, which no other has."""
    return pem.splitlines()[1]


@pytest.fixture(scope="module")
def secrets(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Every secret that the cluster has, by what it is, once the cluster has done something with each."""
    admin = client(cluster, primary_of(cluster))
    known = {name: secret(name) for name in ("account", "account-2", "refused", "user", "user-2", "wrong", "broken")}
    admin.write("PUT", "/settings/user.marker", {"value": MARKER})
    account = {"host": "%", "grants": [{"database": "*", "privileges": ["SELECT"]}]}
    for name in ("account", "account-2"):
        admin.write("PUT", "/instances/db1/accounts/app", account | {"password": known[name]})
        admin.wait_for("/instances/db1/accounts/app", lambda it: it["status"]["phase"] == "ready")
    for refused in (
        admin.put("/instances/db1/accounts/app", account | {"password": known["refused"], "host": "'"}),
        admin.put("/instances/db1/accounts/app", f'{{"password": "{known["broken"]}'.encode()),
        admin.put("/instances/nowhere/accounts/app", account | {"password": known["refused"]}),
        admin.put("/settings/user.x", {"value": 1, "password": known["refused"]}),
        admin.put("/users/ann", {"role": "nothing", "password": known["refused"]}),
    ):
        assert refused.status in (404, 422)
    admin.write("PUT", "/users/ann", {"role": "admin", "password": known["user"]})
    admin.write("PUT", "/users/ann/password", {"password": known["user-2"]})
    login = admin.holding(None).write("POST", "/login", {"name": "ann", "password": known["user-2"]}).json
    assert admin.holding(None).post("/login", {"name": "ann", "password": known["wrong"]}).status == 401
    assert admin.holding(login["token"]).get("/cluster").status == 200
    known |= {"session": login["token"].rpartition(".")[2], "csrf": login["csrf"]}
    for role in ("viewer", "node", "agent"):
        token = admin.write("POST", "/tokens", {"role": role}, Idempotency_Key=uuid4().hex).json["token"]
        known[f"token-{role}"] = parse_token(token).secret
        assert admin.holding(token).get(f"/tokens/{token}").status in (401, 403, 404)
        assert admin.get(f"/settings/{token}").status in (404, 422)
    with enrolled(cluster) as agent:
        known |= {"agent-broker": agent.password, "agent-api": parse_token(agent.api_token).secret}
        agent.say("report", {"revision": 0, "instances": []})
    known["admin"] = parse_token(str(admin.token)).secret
    known["broker-admin"] = cluster.layout.broker_password.read_text().strip()
    for provider in cluster.providers.values():
        known |= secrets_of(provider)
    for name, found in cluster.agents.items():
        for file in ("broker.password", "api.token"):
            path = found.files.directory / file
            if path.exists():
                known[f"{name}-{file}"] = path.read_text().strip().rpartition(".")[2]
    known |= rotated_password(cluster, admin)
    used(cluster)
    known |= came_and_went(cluster)
    return known | rotated_authority(cluster, tmp_path_factory.mktemp("brought"))


def rotated_password(cluster: Cluster, admin: Client) -> dict[str, str]:
    """The agent is given another password on the broker; the former one is none any more, and a secret still."""
    file = cluster.agents["db1"].files.directory / "broker.password"
    former = file.read_text().strip()
    admin.write("POST", "/agents/db1/credential")
    admin.wait_for("/agents/db1", lambda it: it["status"].get("credential") == it["spec"].get("credential") is not None)
    wait_until(lambda: not kept(file, former), timeout_s=20, what="the agent keeps its former password")
    return {"db1-former": former, "db1-rotated": file.read_text().strip()}


def kept(file: Path, text: str) -> bool:
    return file.exists() and file.read_text().strip() == text


def came_and_went(cluster: Cluster) -> dict[str, str]:
    """A node that joins, and is removed: its own secrets, the token that let it in, and what replaces what it knew."""
    leader = primary_of(cluster)
    admin = client(cluster, leader)
    token = admin.write("POST", "/tokens", {"role": "node"}).json["token"]
    directory = cluster.layout.root / "late"
    directory.mkdir(mode=0o700)
    late = Provider("late", ServerFiles(directory, "provider"), free_ports(1)[0])
    write_atomically(directory / "once", token)
    late.join(cluster.providers[leader], directory / "once")
    (directory / "once").unlink()
    late.launch()
    late.wait_ready()
    known = {"once": parse_token(token).secret} | secrets_of(late)
    assert late.process is not None
    late.process.stop()
    admin.write("DELETE", "/nodes/late")
    admin.write("PUT", "/settings/user.marker", {"value": MARKER})
    return known


def secrets_of(provider: Provider) -> dict[str, str]:
    directory, name = provider.files.directory, provider.name
    return {
        f"{name}-token": parse_token((directory / "node.token").read_text()).secret,
        f"{name}-broker": (directory / "broker.password").read_text().strip(),
        f"{name}-secrets": (directory / "secrets.key").read_text().strip().splitlines()[-1],
        f"{name}-key": body_of((directory / "node.key").read_text()),
    }


def rotated_authority(cluster: Cluster, directory: Path) -> dict[str, str]:
    """From the first authority to one that is brought, and on to another, each as its documentation says; the keys of
    both are known. The former ones are dropped."""
    leader, known = primary_of(cluster), {}
    admin = client(cluster, leader)
    for name in ("authority", "authority-2"):
        certificate, key = pki.new_ca(name)
        write_atomically(directory / "ca.pem", certificate)
        write_atomically(directory / "ca.key", key)
        cluster.layout.ca.write_text(cluster.layout.ca.read_text() + certificate)
        old = admin.read("/authorities")["items"][0]["id"]
        files = ["--ca-certificate", str(directory / "ca.pem"), "--ca-key", str(directory / "ca.key")]
        assert command(cluster, leader, "provider", "ca", "rotate", *files).code == 0
        admin.wait_for("/authorities", lambda it, old=old: any(
            one["id"] == old and not one["status"]["used_by"] for one in it["items"]
        ))  # fmt: skip
        cluster.broker.ctl("eval", "ssl:clear_pem_cache().")
        wait_until(
            lambda old=old: command(cluster, leader, "provider", "ca", "drop", old).code == 0,
            timeout_s=60,
            what="the old authority cannot be dropped",
        )
        known |= {name: body_of(key), f"{name}-number": number_of(key)}
    assert len(admin.read("/authorities")["items"]) == 1
    return known


def number_of(key_pem: str) -> str:
    """The private key itself, hex, whatever it is wrapped in."""
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return f"{key.private_numbers().private_value:064x}"


def used(cluster: Cluster) -> None:
    """What a day brings: another primary and back, a node and an agent that start anew, the commands."""
    first, second = primary_of(cluster), standbys_of(cluster)[0]
    promote(cluster, second)
    for name in (first, "db1"):
        member = cluster.members[name]
        assert member.process is not None
        member.process.stop()
        member.launch()
        member.wait_ready()
    promote(cluster, first)
    for arguments in (("provider", "status"), ("provider", "status", "--json"), ("failover", "--operation", "status")):
        assert command(cluster, first, *arguments).code == 0
    assert command(cluster, "db1", "agent", "status").code in (0, 1)
    client(cluster, first).write("POST", "/agents/advise")


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────────


def forms(text: str) -> dict[str, bytes]:
    """How a secret may be written. Of base64 what does not depend on where it begins."""
    data = text.encode()
    found = {
        "raw": data,
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "url": quote(text, safe="").encode(),
    }
    if re.fullmatch(r"[0-9a-f]{64}", text):  # a number: its bytes, and those in base64 as in a JSON Web Key
        found |= {"bytes": bytes.fromhex(text), "jwk": base64.urlsafe_b64encode(bytes.fromhex(text)).rstrip(b"=")}
    found |= {"json": json.dumps(text)[1:-1].encode(), "form": quote(text).encode(), "utf-16": text.encode("utf-16-le")}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + data)
        found[f"base64+{shift}"] = encoded[4 if shift else 0 : len(encoded) - 4]
    return found


def found_in(data: bytes, secrets: Mapping[str, str]) -> list[str]:
    return [f"{name} ({form})" for name, text in secrets.items() for form, said in forms(text).items() if said in data]


def files(cluster: Cluster) -> Iterator[Path]:
    for path in cluster.layout.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


def test_no_file_but_those_for_secrets(cluster: Cluster, secrets: Mapping[str, str]) -> None:
    marked, wrong = [], []
    for path in files(cluster):
        data = path.read_bytes()
        marked += [path.name] if MARKER.encode() in data else []
        found = found_in(data, secrets)
        if found and path.name not in KEY_FILES:
            wrong.append(f"{path}: {found}")
        if found and stat.S_IMODE(path.stat().st_mode) & 0o077:
            wrong.append(f"{path}: others may read it")
    assert not wrong, "\n".join(wrong)
    assert any("db" in name for name in marked), f"the store should have been found by the same search: {marked}"
    assert any("segment" in name for name in marked), f"the log, too: {marked}"


READ = (
    *("/cluster", "/nodes", "/agents", "/instances", "/instances/db1/accounts", "/instances/db1/databases", "/tasks"),
    *("/settings?limit=1000", "/tokens", "/users", "/session", "/audit?limit=1000&all=true", "/snapshot", "/history"),
    *("/metrics", "/openapi.json", "/ca", "/authorities", "/events?after=1&follow=false", "/agents/db1/advice"),
)


def test_no_answer(cluster: Cluster, secrets: Mapping[str, str]) -> None:
    seen = b""
    for name in cluster.providers:
        node = client(cluster, name)
        for path in READ:
            answer = node.get(path, Accept="application/x-ndjson" if "events" in path else "application/json")
            assert answer.status in (200, 410), (path, answer)
            assert not found_in(answer.body, secrets), path
            seen += answer.body
    assert MARKER.encode() in seen


def test_no_command_line_and_no_environment(cluster: Cluster, secrets: Mapping[str, str]) -> None:
    ours = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        for what in ("cmdline", "environ"):
            try:
                data = (process / what).read_bytes()
            except OSError:  # it has ended
                continue
            ours += str(cluster.layout.root).encode() in data
            assert not found_in(data, secrets), f"{what} of {process.name}"
    assert ours >= 4, "the providers, the agent, the broker"


def test_the_search_finds_what_is_there() -> None:
    for form, said in forms("a secret/+é").items():
        assert found_in(b"... " + said + b" ...", {"it": "a secret/+é"}), form
    assert not found_in(b"something else", {"it": "a secret/+é"})
