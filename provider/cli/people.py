"""Users and tokens, from the command line: what `provider` (this host's daemon) and `bellwether` (any node) share."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from provider.cli.console import plain, print_json, read_secret, table
from provider.client import Client, path
from shared.files import write_atomically


class PersonRole(StrEnum):
    admin = "admin"
    operator = "operator"
    viewer = "viewer"


class TokenRole(StrEnum):
    admin = "admin"
    operator = "operator"
    viewer = "viewer"
    node = "node"
    agent = "agent"


User = Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9 and . _ @ - between them.")]
Role = Annotated[PersonRole, typer.Option(help="What the user may do; see docs/ROLES.md.")]
PasswordFile = Annotated[Path | None, typer.Option(help="Else BELLWETHER_PASSWORD or a prompt.")]
OldPasswordFile = Annotated[
    Path | None, typer.Option(help="For one's own, without being administrator; else BELLWETHER_OLD_PASSWORD.")
]
NewRole = Annotated[TokenRole, typer.Option("--role", help="node and agent tokens work once.")]
Ttl = Annotated[str | None, typer.Option(help="30m, 1h, 7d …; one-time tokens: 1h unless given.")]
TokenOut = Annotated[Path | None, typer.Option(help="Write it to this file (mode 600) instead.")]
Label = Annotated[str | None, typer.Option("--name", help="What it is for.")]
Scope = Annotated[
    list[str] | None,
    typer.Option(help="A path that it is good for: /instances/db1, /settings/user.app*; repeatable."),
]


# ── tokens ──


def create_token(
    client: Client, role: TokenRole, ttl: str | None, name: str | None, scope: list[str] | None
) -> dict[str, Any]:
    """A new token. Raises a `Problem`."""
    body: dict[str, Any] = {"role": role.value}
    if ttl is not None:
        body["ttl_s"] = seconds(ttl)
    if name is not None:
        body["name"] = name
    if scope:
        body["scope"] = scope
    return dict(client.request("POST", "/tokens", body))


def show_new_token(created: dict[str, Any], token_out: Path | None, *, as_json: bool) -> None:
    """The token, this once: on stdout, or in a file, whose path is in the JSON then."""
    if token_out is not None:
        write_atomically(token_out, created["token"] + "\n")
        created = {name: value for name, value in created.items() if name != "token"} | {"token_file": str(token_out)}
    if as_json:
        print_json(created)
    elif token_out is not None:
        plain(f"The {created['spec']['role']} token is in {token_out}.")
    else:
        plain(created["token"])


def list_tokens(client: Client, *, as_json: bool) -> None:
    found = list(items(client, "/tokens"))
    if as_json:
        print_json(found)
        return
    rows = [["ID", "ROLE", "NAME", "EXPIRES", "LAST USED", "FROM", "SCOPE"]]
    for token in found:
        spec, status = token["spec"], token["status"]
        ended = next((word for word in ("used", "revoked") if status.get(f"{word}_at") is not None), None)
        rows.append(
            [
                token["id"],
                spec["role"] + (f" ({ended})" if ended else ""),
                spec.get("name") or ("administrator" if spec.get("administrator") else "-"),
                _when(spec.get("expires_at")),
                _when(status.get("last_used_at")),
                status.get("last_used_from") or "-",
                " ".join(spec.get("scope") or ["all"]),
            ]
        )
    table(rows, indent="")


def revoke_token(client: Client, id_: str) -> None:
    client.request("DELETE", path("tokens", id_))
    plain(f"{id_} is revoked.")


# ── users ──


def add_user(client: Client, name: str, role: PersonRole, password_file: Path | None) -> None:
    body = {"role": role.value, "password": _new_password(password_file)}
    client.request("PUT", path("users", name), body, headers={"If-None-Match": "*"})
    plain(f"{name} may log in, with the role {role.value}.")


def list_users(client: Client, *, as_json: bool) -> None:
    found = list(items(client, "/users"))
    if as_json:
        print_json(found)
        return
    rows = [["NAME", "ROLE", "SINCE", "CHANGED"]]
    rows += [[user["id"], user["spec"]["role"], user["created_at"], user["updated_at"]] for user in found]
    table(rows, indent="")


def set_role(client: Client, name: str, role: PersonRole) -> None:
    document = client.get(path("users", name))
    headers = {"If-Match": f'"{document["revision"]}"'}
    client.request("PUT", path("users", name), {"role": role.value}, headers=headers)
    plain(f"{name} has the role {role.value} now; sessions were ended.")


def set_password(client: Client, name: str, password_file: Path | None, old_password_file: Path | None) -> None:
    import os

    body = {"password": _new_password(password_file)}
    if old_password_file is not None or "BELLWETHER_OLD_PASSWORD" in os.environ:
        body["old_password"] = read_secret(old_password_file, "BELLWETHER_OLD_PASSWORD", "Old password")
    client.request("PUT", path("users", name, "password"), body)
    plain(f"{name} has a new password; sessions were ended.")


def remove_user(client: Client, name: str) -> None:
    client.request("DELETE", path("users", name))
    plain(f"{name} is removed. Tokens that {name} made stay good: `token list` shows them.")


def _new_password(file: Path | None) -> str:
    return read_secret(file, "BELLWETHER_PASSWORD", "New password", confirm=True)


# ── for all of them ──


def items(client: Client, collection: str) -> Iterator[dict[str, Any]]:
    """All items of a collection, page by page."""
    after: dict[str, str] = {}
    while True:
        page = client.get(collection, limit="1000", **after)
        yield from page["items"]
        if page["next"] is None:
            return
        after = {"after": page["next"]}


def _when(unix_ms: int | None) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ") if unix_ms is not None else "-"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """`30m`, `1h`, `7d` as seconds. Raises `typer.BadParameter`: exit code 2."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 30m, 1h or 7d")
    return int(match[1]) * _UNITS[match[2]]
