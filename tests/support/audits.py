"""What a node's audit holds, and who may appear in it."""

from typing import Any

from provider.core.commands import PutToken
from provider.core.documents import TokenSpec
from shared.tokens import Token, new_token
from tests.support.apis import ApiNode

SECRET = "Hn7-correct horse"


def told(node: ApiNode) -> None:
    """Whatever was noted is in the log."""

    async def tell() -> None:
        while node.telling.take():
            assert await node.telling.tell()

    node.run(tell())


def audit_of(node: ApiNode, query: str = "") -> list[dict[str, Any]]:
    """All items, newest first, page by page."""
    told(node)
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        page = node.ask("GET", f"/audit?limit=7{query}{after}").json
        items += page["items"]
        if page["next"] is None:
            assert page["complete"]
            return items
        after = f"&after={page['next']}"


def refused(node: ApiNode, query: str = "") -> list[dict[str, Any]]:
    return audit_of(node, f"&outcome=refused{query}")


def new_user(node: ApiNode, role: Any, expires_at: int | None = None) -> Token:
    token = new_token(role)
    node.commit(PutToken(token.id, TokenSpec(role=role, sha256=token.hashed, expires_at=expires_at)))
    return token


def write_some(node: ApiNode, many: int = 12) -> None:
    """So many changes, of one setting."""
    for number in range(many):
        node.ask("PUT", "/settings/user.some", {"value": number})
