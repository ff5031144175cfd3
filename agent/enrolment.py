"""Becoming known to a cluster, and asking it for broker settings: HTTPS with the standard library alone."""

import http.client
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent import brokerfile, credentials
from agent.credentials import Held
from agent.settings import AgentFiles, AgentSettings, InstanceSettings
from shared import tls
from shared.errors import BellwetherError, Forbidden, Invalid, Refused, Unauthenticated, Unavailable
from shared.files import write_atomically
from shared.messages import Advice
from shared.passwords import broker_password_hash, new_password
from shared.tokens import Token, parse_token
from shared.validation import problems
from shared.version import VERSION

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


class _Enrolled(BaseModel):
    model_config = ConfigDict(extra="ignore")

    username: str = Field(min_length=1)
    advice: Advice


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: bytes


def enroll(
    urls: Sequence[str], token_text: str, settings: AgentSettings, files: AgentFiles, new_config: str | None
) -> brokerfile.BrokerSettings:
    """Make this agent known with a one-time token; writes everything that `agent run` needs, broker.json last.

    `new_config` is the text of an agent.toml that is not there yet, else None.

    Tries each URL in turn. Raises `Invalid` for a bad token, `Refused` and its kin for what the provider refused,
    `Unavailable` where no provider could be reached; then nothing is written.
    """
    token = parse_token(token_text)
    if token.role != "agent" or token.fingerprint is None:
        raise Invalid("this is not a one-time agent token; make one with: provider token create --role agent")
    fingerprint = token.fingerprint
    ca = first_that_answers(urls, lambda url: fetch_ca(url, fingerprint))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # The agent's secrets are made here and stay here.
    password, own = new_password(), Token("agent", settings.id, new_password())
    body = {
        "id": settings.id,
        "version": VERSION,
        "token_sha256": own.hashed,
        "broker_password_hash": broker_password_hash(password),
        "instances": [_address(one) for one in settings.instances],
    }
    # Not retried once a provider has answered: the token may be used up by then.
    answer = first_that_answers(
        urls, lambda url: request("POST", url, "/api/v1/enroll", context, token=token_text.strip(), body=body)
    )
    enrolled = _checked(answer, _Enrolled)
    broker = brokerfile.from_advice(enrolled.advice, files)
    credentials.write(Held(0, password), files)
    write_atomically(files.api_token, own.text() + "\n")
    config = files.config.read_text(encoding="utf-8") if new_config is None else new_config
    username = enrolled.username if enrolled.username != settings.id else None
    if new_config is not None or username != settings.broker_username:
        write_atomically(files.config, _with_username(config, username))
    brokerfile.write(broker, files)
    return broker


def fetch_ca(url: str, fingerprint: str) -> str:
    """The cluster's CA certificate, proven by its fingerprint: nothing else about this connection is trusted."""
    answer = request("GET", url, "/api/v1/ca", tls.unverified_context())
    pem = answer.content.decode("utf-8", "replace")
    try:
        found = tls.pinned(pem, fingerprint)
    except ValueError:
        raise Refused(f"{url} sent no CA certificate (HTTP {answer.status}); is it a Bellwether provider?") from None
    if found is None:
        raise Refused(f"{url} belongs to another cluster than the token, or is not who it says it is; nothing was sent")
    return found


def fetch_advice(urls: Sequence[str], settings: AgentSettings, files: AgentFiles) -> Advice:
    """The current broker settings from the first of `urls` that answers. Raises as `enroll` does."""
    try:
        token = files.api_token.read_text(encoding="utf-8").strip()
        context = tls.client_context(files.ca)
    except (OSError, ValueError) as error:
        raise Invalid(f"this agent is not enrolled: {error}; use: agent enroll") from None
    path = f"/api/v1/agents/{settings.id}/advice"
    return _checked(first_that_answers(urls, lambda url: request("GET", url, path, context, token=token)), Advice)


def tell_credential(urls: Sequence[str], settings: AgentSettings, files: AgentFiles) -> None:
    """Say which broker password this agent has: a cluster that was restored from an older backup cannot know. At any
    other time it changes nothing. Raises as `enroll` does."""
    held = credentials.read(files)
    if held.number == 0:
        return  # the one from its enrolment: who knows the agent knows that
    token, context = files.api_token.read_text(encoding="utf-8").strip(), tls.client_context(files.ca)
    path = f"/api/v1/agents/{settings.id}/credential"
    body = {"number": held.number, "broker_password_hash": broker_password_hash(held.password)}
    answer = first_that_answers(urls, lambda url: request("PUT", url, path, context, token=token, body=body))
    if answer.status >= 300:
        raise Refused(_detail(answer))


def first_that_answers(urls: Sequence[str], ask: Callable[[str], T]) -> T:
    """`ask` of each URL until one does not raise `Unavailable`. Raises the last `Unavailable`."""
    problem: Unavailable | None = None
    for url in urls:
        try:
            return ask(url)
        except Unavailable as error:
            problem = error
    raise problem or Invalid("no provider's URL was given")


def request(
    method: str,
    url: str,
    path: str,
    context: ssl.SSLContext,
    *,
    token: str | None = None,
    body: dict[str, Any] | None = None,
) -> Answer:
    """One HTTPS request. Raises `Unavailable` where there is no answer in `TIMEOUT_S` seconds, or one of 502 to 504."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Invalid(f"{url}: expected https://host:port") from None
    if parts.scheme != "https" or not parts.hostname:
        raise Invalid(f"{url}: expected https://host:port")
    headers = {"Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection = http.client.HTTPSConnection(parts.hostname, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = Answer(response.status, response.read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} does not answer: {error}; is it the right address, and does it run?") from None
    finally:
        connection.close()
    if answer.status in (502, 503, 504):
        raise Unavailable(f"{url}: {_detail(answer)}")
    return answer


M = TypeVar("M", bound=BaseModel)


def _checked(answer: Answer, model: type[M]) -> M:
    if answer.status >= 300:
        kind: type[BellwetherError] = {401: Unauthenticated, 403: Forbidden}.get(answer.status, Refused)
        raise kind(_detail(answer))
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise Refused(f"the provider's answer is not understood ({problems(error)}); are versions equal?") from None


def _detail(answer: Answer) -> str:
    """What a problem+json says, or the bare status."""
    try:
        problem = json.loads(answer.content)
        return str(problem.get("detail") or problem.get("title") or problem["code"])[:500]
    except (ValueError, KeyError, AttributeError):
        return f"HTTP {answer.status}"


def _address(instance: InstanceSettings) -> dict[str, Any]:
    content = {
        "id": instance.id,
        "engine": instance.engine,
        "host": instance.host,
        "port": (instance.port or 3306) if instance.host else None,
        "socket": str(instance.socket) if instance.socket else None,
    }
    return {key: value for key, value in content.items() if value is not None}


def _with_username(config: str, username: str | None) -> str:
    """agent.toml with that broker user, put first: top-level keys come before tables. None: as the agent's id."""
    line = "" if username is None else f"broker_username = {json.dumps(username)}\n"
    return line + "".join(one for one in config.splitlines(keepends=True) if not one.startswith("broker_username"))
