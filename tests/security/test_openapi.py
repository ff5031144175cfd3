"""Invariant: the OpenAPI document is true. Whatever it says may be asked, and whatever it says may not, is answered as
it says, with a status, a content type, headers and a body that stand there; never with a fault of ours (5xx).

`BELLWETHER_FUZZ=N` tries N times as many requests.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from localcluster.cluster import Cluster
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from provider.api.described import OPERATIONS
from tests.support.api import Client, client
from tests.support.fuzzing import effort
from tests.support.nodes import primary_of, standbys_of

EXAMPLES = 8
EXISTING = {"instance": "db1", "agent": "db1", "name": "p1", "key": "user.openapi"}
"""What is there: most of what is made up is not, and would only ever be told so."""
NOT_ASKED = {("POST", "/api/v1/failover")}
"""What would change who is primary while others ask; its refusals are tried with a node that is none."""
KEPT = {("DELETE", "/api/v1/nodes/{name}"), ("DELETE", "/api/v1/agents/{agent}")}
"""What would take away what others need: asked for what is not there only."""
ANSWER_S = 20


@pytest.fixture(scope="module")
def document(cluster: Cluster) -> dict[str, Any]:
    answer = client(cluster, primary_of(cluster)).holding(None).get("/openapi.json")
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


@pytest.fixture(scope="module")
def tokens(cluster: Cluster) -> dict[str, str | None]:
    admin = client(cluster, primary_of(cluster))
    admin.write("PUT", "/settings/user.openapi", {"value": 1})
    admin.write("PUT", "/instances/db1/databases/openapi", {})
    viewer = admin.write("POST", "/tokens", {"role": "viewer"}).json["token"]
    return {"admin": admin.token, "viewer": viewer, "nobody": None}


@pytest.fixture(scope="module", autouse=True)
def _no_fault_is_logged(cluster: Cluster) -> Iterator[None]:
    before = {name: len(provider.log.read_text()) for name, provider in cluster.providers.items()}
    yield
    for name, provider in cluster.providers.items():
        said = provider.log.read_text()[before[name] :]
        assert "Traceback" not in said, said[:3000]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield method, path, operation


# ── the document itself ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_route_says_what_it_answers(document: dict[str, Any]) -> None:
    known = {(method, path.removeprefix("/api/v1")) for method, path, _ in operations(document)}
    assert known == set(OPERATIONS), "provider/api/described.py: name each route, and none that is not there"
    for method, path, operation in operations(document):
        assert "422" not in operation["responses"], f"{method} {path}: our errors are problems, not FastAPI's"
        assert "default" in operation["responses"], f"{method} {path}"
        for status, answer in operation["responses"].items():
            if status not in ("204", "304"):
                assert all(content.get("schema") for content in answer["content"].values()), f"{method} {path} {status}"


def test_what_is_secret_is_not_in_any_document_that_is_shown(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    documents = {
        name: schema["properties"] for name, schema in schemas.items() if "spec" in schema.get("properties", {})
    }
    shown = {name: fields["spec"]["properties"] for name, fields in documents.items()}
    assert "grants" in shown["Account"]
    for name, spec in shown.items():
        assert not [field for field in spec if re.search("password|sha256|secret|sealed|wrapped", field)], name


def test_every_path_parameter_and_body_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        named = {part["name"] for part in operation.get("parameters", []) if part["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), f"{method} {path}"
        if method == "put":
            assert operation["requestBody"]["content"]["application/json"]["schema"], path


# ── asked ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_fault() -> Any:
    return CHECKS.get_one("not_a_server_error")


def checks() -> list[Any]:
    load_all_checks()
    wanted = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
    return [CHECKS.get_one(name) for name in wanted]


def aim(case: schemathesis.Case, operation: schemathesis.APIOperation, existing: bool) -> None:
    """Points a request at what is there, and keeps it from waiting for ever."""
    at = (operation.method.upper(), operation.path)
    parameters = case.path_parameters or {}
    for name in parameters:
        if existing and at not in KEPT:
            known = "openapi" if "/databases/" in at[1] and name == "name" else EXISTING.get(name)
            parameters[name] = known if known is not None else parameters[name]
        elif at in KEPT and parameters[name] in ("p1", "p2", "db1"):
            parameters[name] = "nothing"
    headers = case.headers if case.headers is not None else {}
    for name in [name for name in headers if name.lower() in ("bellwether-min-revision", "authorization")]:
        del headers[name]  # a revision that is yet to come is 503, and is meant to be
    if operation.path.endswith("/events"):
        case.query = {**(case.query or {}), "follow": "false"}
    if at in NOT_ASKED and isinstance(case.body, dict):
        case.body["node"] = "nobody"
    if operation.path.endswith("/authorities") and isinstance(case.body, dict):
        case.body |= {"certificate": "none", "key": "none"}  # one that is good would be everybody's


class Inquiry:
    """Asks one node all that the document lets one ask, as one principal."""

    def __init__(self, node: Client, token: str | None, mode: GenerationMode) -> None:
        self.asked: Counter[int] = Counter()
        self._node, self._mode, self._checks = node, mode, checks()
        self._session = requests.Session()
        self._session.trust_env = False
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, case: schemathesis.Case, operation: schemathesis.APIOperation, existing: bool) -> None:
        aim(case, operation, existing)
        answer = case.call(session=self._session, timeout=ANSWER_S, verify=str(self._node.ca))
        self.asked[answer.status_code] += 1
        probe = "/health/" in operation.path  # whose 503 is what they are for
        case.validate_response(answer, checks=[one for one in self._checks if not probe or one is not no_fault()])

    def wrong(self, operation: schemathesis.APIOperation) -> str | None:
        """What was not answered as it should be."""
        spoilable = operation.path_parameters or operation.query or operation.body
        if self._mode is GenerationMode.NEGATIVE and not spoilable:
            return None

        @settings(effort(EXAMPLES), phases=[Phase.generate])  # a smaller one would cost as many requests again
        @given(operation.as_strategy(generation_mode=self._mode), st.booleans())
        def ask(case: schemathesis.Case, existing: bool) -> None:
            self.ask(case, operation, existing)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own: of what it cannot spoil, or takes for a waste
            try:
                ask()
            except BaseExceptionGroup as error:
                return f"{operation.label}: " + "\n".join(str(one) for one in error.exceptions)[:2500]
            except Exception as error:  # noqa: BLE001
                return f"{operation.label}: {error!r}"[:2500]
        return None


POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("where", "who", "mode"),
    [
        ("primary", "admin", POSITIVE),
        ("primary", "admin", NEGATIVE),
        ("primary", "viewer", POSITIVE),
        ("primary", "nobody", POSITIVE),
        ("standby", "admin", POSITIVE),
    ],
)
def test_every_answer_is_one_that_the_document_names(
    cluster: Cluster,
    document: dict[str, Any],
    tokens: dict[str, str | None],
    where: str,
    who: str,
    mode: GenerationMode,
) -> None:
    node = client(cluster, primary_of(cluster) if where == "primary" else standbys_of(cluster)[0])
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=node.url)
    inquiry = Inquiry(node, tokens[who], mode)
    wrong = [inquiry.wrong(found.ok()) for found in schema.get_all_operations()]
    assert not any(wrong), "\n\n".join(one for one in wrong if one is not None)
    asked = inquiry.asked
    if (who, mode) == ("admin", GenerationMode.POSITIVE):
        assert asked[200] + asked[201] > asked.total() // 4, f"nearly all was refused: {asked}"
    if who == "nobody":
        assert asked[401] > asked.total() // 2, asked
