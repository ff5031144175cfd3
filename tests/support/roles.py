"""`docs/ROLES.md`, made from the policy of each route: python -m tests.support.roles > docs/ROLES.md"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from fastapi.routing import APIRoute

from provider.api.access.policy import Policy, Rule, may
from provider.api.direct import PREFIX, DirectRoute
from tests.support.apis import ApiNode

HEAD = """\
# Who may do what

Made from what the routes themselves say (`@needs(…)`, see [policy.py](../provider/api/access/policy.py)); a test
compares. To write it anew after a change: `.venv/bin/python -m tests.support.roles > docs/ROLES.md`.

| role | who | may |
|---|---|---|
| viewer | people and programs | read the fleet: databases, accounts, settings, nodes, agents, events; never a secret |
| operator | people and programs | also databases, accounts, settings of one's own (`user.*`), advising agents |
| admin | people and programs | also nodes, agents, tokens, users, the cluster's settings, promotion, the audit |
| node | a provider, with its token and its certificate | as admin, and what only nodes tell each other |
| agent | an agent, with its token | read its own advice |
| one-time | whoever holds a one-time token for a node, or for an agent | join, or enrol, once |

A token with a scope may do what its role may below the paths of its scope, and nothing elsewhere. A token belongs to a
program: it has a name, an end if you give it one, and shows when it was last used. People log in with name and password
(`POST /login`) and have a session of 8 hours. It ends at once when they log out, when their role or password changes,
when an administrator ends it (`DELETE /users/{name}/sessions`), and when they are removed.

The first administrator's token is printed once, by `provider init`. Who lost it issues it anew as root on a provider
(`provider token administrator`); the former one is good no longer. Users and tokens are made by `provider user add` and
`provider token create` on a provider, by `bellwether user …` and `bellwether token …` from elsewhere, or by the API.
Removing a user ends the user's sessions, not the tokens that the user made: `token list` shows them.

✓ may · (✓) in part: see the last column

| request | viewer | operator | admin | node | agent | no token | |
|---|---|---|---|---|---|---|---|
"""
COLUMNS = ("viewer", "operator", "admin", "node", "agent")


def document(routes: Iterable[object]) -> str:
    """The whole file."""
    found = [route for route in routes if isinstance(route, DirectRoute) and route.include_in_schema]
    return HEAD + "".join(_row(route) for route in sorted(found, key=_order))


def _order(route: APIRoute) -> tuple[str, str]:
    return route.path.removeprefix(PREFIX), min(route.methods)


def _row(route: DirectRoute) -> str:
    policy = route.policy
    assert isinstance(policy, Policy)
    method = next(iter(sorted(route.methods - {"HEAD"})))
    path = route.path.removeprefix(PREFIX).replace(":path", "")
    note = (policy.by.__doc__ or "").strip() if policy.by is not None else ""
    if policy.rule.startswith("newcomer:"):
        note = f"a one-time {policy.rule.removeprefix('newcomer:')} token, nothing else"
    cells = [_cell(policy, role, writes=method != "GET") for role in COLUMNS]
    return f"| `{method} {path}` | {' | '.join([*cells, '✓' if policy.rule == 'open' else ''])} | {note} |\n"


def _cell(policy: Policy, role: str, *, writes: bool) -> str:
    if not may(role, policy.rule):
        return ""
    if policy.by is None:
        return "✓"
    most: Rule | None = "admin" if writes and policy.rule == "agent" else _MOST.get(policy.rule)
    return "✓" if most is not None and may(role, most) else "(✓)"


_MOST: dict[Rule, Rule] = {"operator": "admin", "viewer": "admin", "agent": "viewer"}
"""By the least that a route asks for, the most that it may ask for to read, where it depends (`Policy.by`)."""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ApiNode(Path(directory)) as node:
        print(document(node.app.routes), end="")


if __name__ == "__main__":
    main()
