"""The way of a write: committed here where this node is primary, taken to the primary where it is not.

Whichever node a client asks, it gets the primary's answer once that node's own copy has caught up with it, so it reads
its own write there. While there is no primary, or while one is being replaced, the write waits a moment.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request, Response

from provider.api.access.auth import Principal
from provider.api.access.policy import FORWARDED, HEADERS, PRINCIPAL
from provider.api.context import Context, context
from provider.api.forward import Forwarded, NotAnswered, NotSent
from provider.api.http.source import client_address
from provider.api.views import document_view, to_json
from provider.core.commands import ALWAYS, Command, Precondition
from provider.core.state import Answer
from shared.errors import Behind, Invalid, NoPrimary, OutcomeUnknown, StaleRevision, TooLarge, Unavailable
from shared.tokens import without_secrets

RETRY_S = 0.05
"""Between two attempts while the primary cannot be reached; a change of primary ends the pause at once."""
DEPOSED_ANSWER_S = 0.5
"""How long a primary that was deposed while it held our request may take to say what became of it, where the new one
can be asked instead. Without a key it cannot: an answer is the only way to know."""
SLACK_S = 1.0
"""The primary itself answers within `commit_wait_s`; this much more for the way there and back."""
KEY_MAX = 200
_BEFORE = "the write may have been done or may yet: ask again with the same Idempotency-Key"
_DROP = re.compile(r"(^|&)drop=(true|1)(&|$)", re.IGNORECASE)


@dataclass(slots=True)
class Write:
    """A write as it came in, and whether it may have been done."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    principal: Principal
    source: str | None
    key: str | None
    when: Precondition
    unsure: bool = False
    """A primary was sent it that did not answer. From then on nobody can say any more that nothing was done, whatever
    he knows of himself: neither this node, when it gives up, nor a primary that refuses it the next time."""

    @property
    def forwarded(self) -> bool:
        return FORWARDED in self.headers

    @property
    def action(self) -> str:
        """What is asked, for the audit."""
        path, _, query = self.target.partition("?")
        return described(self.method, path.encode("latin-1"), query)

    def fingerprint(self, ctx: Context) -> str:
        """Tells this request from others under the same key. Keyed, since bodies can hold passwords."""
        if self.key is None:
            return ""
        condition = f"{self.headers.get('if-match')} {self.headers.get('if-none-match')}"
        return ctx.vault.fingerprint(f"{self.method} {self.target} {condition}\n".encode() + self.body)


def described(method: str, raw_path: bytes, query: str = "") -> str:
    """A request in a line, for the audit. Of the query, where a client may put what should not be told, only what
    changes the meaning."""
    dropping = "?drop=true" if _DROP.search(query) else ""
    path = without_secrets(raw_path.decode("ascii", "backslashreplace"))
    return f"{method} {path}{dropping}"


async def receive(request: Request) -> Write:
    """The write in `request`. Raises `TooLarge`, or `Invalid` for headers that make no sense."""
    ctx = context(request)
    # Straight from the server's own structures: a URL object for each request would cost more than all the rest here.
    scope = request.scope
    headers: dict[str, str] = scope[HEADERS]
    query: bytes = scope["query_string"]
    target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
    return Write(
        method=scope["method"],
        target=target,
        headers=headers,
        body=await read_body(request, ctx.settings.api.body_max_bytes),
        principal=scope[PRINCIPAL],
        source=client_address(scope),
        key=_key(headers.get("idempotency-key")),
        when=precondition(headers),
    )


def own_write(node: str, token: str, target: str, body: bytes, key: str) -> Write:
    """What this node has to say itself, as a write that can be taken to the primary like a client's. `token` is the
    node's, `target` a path with the prefix, `body` JSON."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "idempotency-key": key}
    return Write("POST", target, headers, body, Principal(f"node:{node}", "node"), None, key, ALWAYS)


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes. Raises `TooLarge` before it has read more than that."""
    message = f"the body is larger than {limit} bytes"
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise TooLarge(message)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(message)
        parts.append(part)
    return b"".join(parts)


def precondition(headers: dict[str, str]) -> Precondition:
    """`If-Match` and `If-None-Match`. Raises `Invalid`, or `StaleRevision` for an ETag that is none of ours."""
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if none_match is not None and none_match.strip() != "*":
        raise Invalid("If-None-Match: only * is understood on a write")
    if match is None or match.strip() == "*":
        return Precondition(absent=none_match is not None, present=match is not None)
    text = match.strip().removeprefix("W/").strip('"')
    if not text.isdecimal() or len(text) > 18:
        raise StaleRevision(f"If-Match: {match[:80]!r} is no revision of ours; expected one ETag of an answer, or *")
    return Precondition(revision=int(text), absent=none_match is not None)


def _key(text: str | None) -> str | None:
    if text is None:
        return None
    if not text or len(text) > KEY_MAX or not text.isprintable():
        raise Invalid(f"Idempotency-Key: expected 1 to {KEY_MAX} printable characters")
    return text


async def commit(ctx: Context, write: Write, command: Command) -> Answer | Forwarded:
    """Has `command` committed, here or by the primary. Raises a `BellwetherError`.

    Waits at most `primary_wait_s` for a primary to be there, and `commit_wait_s` for the log.
    """
    while True:
        elsewhere = await to_primary(ctx, write)
        if elsewhere is not None:
            return elsewhere
        epoch = ctx.gateway.state.epoch
        try:
            result = await ctx.gateway.commit(
                command,
                principal=write.principal.name,
                action=write.action,
                wait_s=ctx.settings.api.commit_wait_s,
                key=write.key,
                fingerprint=write.fingerprint(ctx),
                source=write.source,
            )
        except Unavailable as error:
            if write.unsure:  # nothing was done here; the primary before us may have done it
                raise OutcomeUnknown(f"{error.detail}; {_BEFORE}") from error
            raise
        if isinstance(result, Answer):
            return result
        # Deposed. Our state names the new primary as soon as the claim is durable here.
        await _new_epoch(ctx, epoch, ctx.settings.api.primary_wait_s)


async def to_primary(ctx: Context, write: Write) -> Forwarded | None:
    """The primary's answer to this very request; None where this node is the primary. Raises a `BellwetherError`.

    A refusal by the rules (412, say) holds also where it is not sure that nothing was done before: who gives it knows
    every key that was used.
    """
    deadline = time.monotonic() + ctx.settings.api.primary_wait_s
    while True:
        state = ctx.gateway.state
        if state.primary == ctx.node:
            return None
        if write.forwarded:
            raise NoPrimary(f"{ctx.node} is not the primary; {state.primary} is")
        answer, sent = await _ask(ctx, write, state.primary)
        if answer is not None:
            if write.unsure and answer.status == Unavailable.status:
                raise _gave_up(ctx, state.primary, uncertain=True)
            await _catch_up(ctx, answer)
            return answer
        write.unsure = write.unsure or sent
        if (sent and write.key is None) or time.monotonic() >= deadline:
            raise _gave_up(ctx, state.primary, uncertain=write.unsure)
        await _new_epoch(ctx, state.epoch, RETRY_S)


async def _new_epoch(ctx: Context, epoch: int, timeout_s: float) -> None:
    await ctx.gateway.epochs.until(lambda: ctx.gateway.state.epoch > epoch, timeout_s)


async def _ask(ctx: Context, write: Write, primary: str) -> tuple[Forwarded | None, bool]:
    """The primary's answer, if it gave one, and whether the request may have been done."""
    node = ctx.gateway.state.get("node", primary)
    if node is None:
        return None, False
    epoch = ctx.gateway.state.epoch
    sending = asyncio.ensure_future(
        ctx.forwarder.send(
            node.spec["url"],
            method=write.method,
            target=write.target,
            headers=write.headers,
            body=write.body,
            client=write.source,
        )
    )
    try:
        await ctx.gateway.epochs.until(
            lambda: ctx.gateway.state.epoch > epoch, ctx.settings.api.commit_wait_s + SLACK_S, or_done=sending
        )
        # A deposed primary that lives answers at once; one that hangs is not waited for.
        patience_s = DEPOSED_ANSWER_S if write.key is not None else None
        answer = sending.result() if sending.done() else await asyncio.wait_for(sending, patience_s)
    except NotSent:
        return None, False
    except (NotAnswered, TimeoutError):
        return None, True
    finally:
        sending.cancel()  # where nobody waits for it any more
    refused = answer.status == NoPrimary.status and b'"no_primary"' in answer.body
    return (None, False) if refused else (answer, False)


async def _catch_up(ctx: Context, answer: Forwarded) -> None:
    """Read-your-writes: our own copy first has what the primary answered from. If it cannot be had in time the write is
    still done, and the revision in the answer's headers shows that we are behind."""
    if 200 <= answer.status < 300:
        try:
            await ctx.gateway.reach(answer.revision, ctx.settings.api.commit_wait_s)
        except Behind:
            return


def _gave_up(ctx: Context, primary: str, *, uncertain: bool) -> NoPrimary | OutcomeUnknown:
    if uncertain:
        return OutcomeUnknown(f"the primary, {primary}, did not answer; {_BEFORE}")
    waited = ctx.settings.api.primary_wait_s
    return NoPrimary(
        f"the primary, {primary}, could not be reached for {waited:g} s; nothing was done. "
        "If it is gone, run `failover --operation promote` on a standby"
    )


async def respond(request: Request, make: Callable[[Write], Command]) -> Response:
    """The whole of a plain write route: receive, make the command (`make(write)`), commit, answer."""
    write = await receive(request)
    result = await commit(context(request), write, make(write))
    return render(result)


def render(result: Answer | Forwarded) -> Response:
    """The HTTP response for what `commit` returned."""
    if isinstance(result, Forwarded):
        return Response(result.body, result.status, result.headers)
    if result.document is None:
        return Response(status_code=result.status)
    headers = {"ETag": f'"{result.document.revision}"', "Content-Type": "application/json"}
    return Response(to_json(document_view(result.document)), result.status, headers)
