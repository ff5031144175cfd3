"""The table in docs/ROLES.md is true: every route of the application is asked by everyone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.api.access.sessions import begin
from provider.api.direct import PREFIX, DirectRoute
from provider.core.commands import PutToken
from provider.core.documents import TokenSpec
from shared.tokens import new_token
from tests.support.apis import ApiNode, later_ms
from tests.support.newcomers import newcomer
from tests.support.roles import COLUMNS, document

TABLE = Path(__file__).parents[2] / "docs" / "ROLES.md"
PARAMETERS = {"name": "nobody", "agent": "db1", "instance": "db1", "key": "user.x"} | dict.fromkeys(
    ("task", "token", "authority"), "none"
)
QUERY = {"/events": "?follow=false"}
NO_TOKEN = "no token"
SCOPE = "/agents"


@pytest.fixture(scope="module")
def p1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("p1")) as node:
        yield node


@pytest.fixture(scope="module")
def tokens(p1: ApiNode) -> dict[str, str | None]:
    """One for everyone who may come."""

    def new(role: str, **body: object) -> str:
        return str(p1.ask("POST", "/tokens", {"role": role, **body}).json["token"])

    agent = newcomer("db1")
    assert p1.ask("POST", "/enroll", agent.body(), token=new("agent")).status == 201
    p1.ask("PUT", "/users/ann", {"role": "viewer", "password": "correct horse battery"})
    over = new_token("admin")
    found = {role: new(role) for role in ("viewer", "operator", "admin")} | {
        "agent": agent.token.text(),
        "node": p1.files.node_token.read_text().strip(),
        "scoped": new("admin", scope=[SCOPE]),
        "one-time node": new("node"),
        "one-time agent": new("agent"),
        "expired": over.text(),
    }
    p1.commit(PutToken(over.id, TokenSpec(role="admin", sha256=over.hashed, expires_at=later_ms(-1))))
    return {**found, NO_TOKEN: None}


def table() -> dict[tuple[str, str], dict[str, str]]:
    """By method and path, the cell of each column."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        match = re.fullmatch(r"`([A-Z]+) (\S+)`", cells[0])
        if match is not None:
            names = (*COLUMNS, NO_TOKEN, "note")
            found[match[1], match[2]] = dict(zip(names, cells[1:], strict=True))
    return found


def routes(node: ApiNode) -> list[tuple[str, str, dict[str, str]]]:
    """Method, path and the table's row of everything that is served; probes also where they stand without the prefix,
    as the table's rows have them."""
    said, found = table(), []
    for route in node.app.routes:
        assert isinstance(route, DirectRoute), route
        path = route.path.replace(":path", "")
        if path == f"{PREFIX}/openapi.json":
            continue
        for method in route.methods - {"HEAD"}:
            found.append((method, path, said[method, path.removeprefix(PREFIX)]))
    assert len(found) > 50
    return found


def test_the_table_is_what_the_routes_say(p1: ApiNode) -> None:
    assert TABLE.read_text(encoding="utf-8") == document(p1.app.routes), (
        "write it anew: .venv/bin/python -m tests.support.roles > docs/ROLES.md; and look at what is new in it"
    )


def expected(who: str, path: str, row: dict[str, str]) -> set[str]:
    """What may come of it: "in", 401 or 403."""
    if row[NO_TOKEN]:
        return {"in"}
    if row["note"].startswith("a one-time"):
        return {"in"} if f"a {who} token" in row["note"] else {"401"}
    if who in (NO_TOKEN, "expired", "one-time node", "one-time agent"):
        return {"401"}
    if who == "scoped":
        below = path.removeprefix(PREFIX)
        inside = below == SCOPE or below.startswith(SCOPE + "/")
        return {"in"} if inside and row["admin"] else {"403"}
    cell = row["viewer" if who == "session" else who]
    return {"✓": {"in"}, "(✓)": {"in", "403"}, "": {"403"}}[cell]


@pytest.mark.parametrize("who", [*COLUMNS, NO_TOKEN, "session", "scoped", "expired", "one-time node", "one-time agent"])
def test_everyone_gets_where_the_table_says_and_nowhere_else(
    p1: ApiNode, tokens: dict[str, str | None], who: str
) -> None:
    ann = p1.state.get("user", "ann")
    assert ann is not None
    wrong = []
    for method, path, row in routes(p1):
        token = begin(ann, later_ms(0)).text(p1.vault) if who == "session" else tokens[who]
        peer = p1.certificate if who == "node" else None
        parameters = PARAMETERS | ({"agent": "db9"} if method == "DELETE" else {})  # db1 is still needed
        concrete = re.sub(r"{(\w+)}", lambda match: parameters[match[1]], path)  # noqa: B023 - used at once
        if not concrete.startswith("/api/"):
            assert row[NO_TOKEN], "what stands without the prefix is for everyone"
        said = p1.ask(method, concrete + QUERY.get(path.removeprefix(PREFIX), ""), token=token, peer=peer)
        got = str(said.status) if said.status in (401, 403) else "in"
        if said.status >= 500 and not path.endswith(("/ready", "/primary", "/standby")):
            wrong.append((method, path, said))
        if got not in expected(who, concrete, row):
            wrong.append((method, path, said))
    assert wrong == []
