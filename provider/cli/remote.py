"""`bellwether`: the remote client. Give it any nodes' URLs; it finds its way.

BELLWETHER_API=https://a:7443,https://b:7443 BELLWETHER_CA=ca.pem BELLWETHER_TOKEN_FILE=my.token bellwether status
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from provider.cli.audit import items, line, moment
from provider.cli.console import AsJson, application, entry, fail, plain, print_json, read_secret, table
from provider.cli.nodes import add_to as add_nodes_to
from provider.cli.remote_access import add_to
from provider.cli.show import show_cluster
from provider.client import Client, Problem, from_environment, path

app = application(
    "The remote client. BELLWETHER_API holds the nodes' URLs (comma-separated), BELLWETHER_CA the authority's file, "
    "BELLWETHER_TOKEN_FILE the file with your token."
)
databases = application("Databases of an instance.")
accounts = application("Accounts of an instance.")
settings = application("Settings; keys that begin with user. are yours.")
agents = application("Agents on the database hosts.")
app.add_typer(databases, name="databases")
app.add_typer(accounts, name="accounts")
app.add_typer(settings, name="settings")
app.add_typer(agents, name="agents")

Instance = Annotated[str, typer.Argument(help="The instance, for example db1.")]
Drop = Annotated[bool, typer.Option("--drop", help="Drop it on the server too, with all data in it.")]


@contextmanager
def remote() -> Iterator[Client]:
    """A client for the nodes in the environment; problems become one line and exit code 1."""
    client = from_environment()
    try:
        yield client
    except Problem as error:
        fail(f"{error.detail} [{error.answer_code}]")
    finally:
        client.close()


add_to(app, remote)
add_nodes_to(app, remote)


def _items(client: Client, collection: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = client.get(collection, limit="1000", **after)
        found += page["items"]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


@app.command()
def status(as_json: AsJson = False) -> None:
    """The cluster at a glance."""
    with remote() as client:
        cluster = client.get("/cluster")
    print_json(cluster) if as_json else show_cluster(cluster)


@app.command()
def instances(as_json: AsJson = False) -> None:
    """The database servers."""
    with remote() as client:
        found = _items(client, "/instances")
    if as_json:
        print_json(found)
        return
    rows = [["NAME", "ENGINE", "VERSION", "STATE", "ROLE", "AGENT"]]
    rows += [
        [
            i["id"],
            i["spec"]["engine"],
            i["status"].get("version", "-"),
            i["status"]["state"],
            i["status"]["role"],
            i["spec"]["agent"],
        ]
        for i in found
    ]
    table(rows, indent="")


@app.command()
def events(after: Annotated[int | None, typer.Option(help="Begin after this revision, not now.")] = None) -> None:
    """Every change as it happens, one JSON object a line."""
    asked = "/events" if after is None else f"/events?after={after}"
    with remote() as client:
        for line in client.lines("GET", asked, accept="application/x-ndjson"):
            if line:
                plain(line)


@app.command()
def audit(
    principal: Annotated[str | None, typer.Option(help="Who, for example token:0123456789abcdef or user:ann.")] = None,
    source: Annotated[str | None, typer.Option(help="From which address.")] = None,
    action: Annotated[str | None, typer.Option(help="What: a part of it, such as DELETE or /settings/.")] = None,
    kind: Annotated[str | None, typer.Option(help="On a document of this kind.")] = None,
    document: Annotated[str | None, typer.Option("--id", help="On the document with this id.")] = None,
    outcome: Annotated[str | None, typer.Option(help="done or refused.")] = None,
    code: Annotated[str | None, typer.Option(help="Refused with this code, such as forbidden.")] = None,
    since: Annotated[str | None, typer.Option(help="30m, 1h, 2d ago, or a time such as 2030-01-31T12:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="The same.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what nodes write down of agents' reports.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Who did what, and who was refused what; the newest first."""
    now = datetime.now(UTC)
    given = {
        **{"principal": principal, "source": source, "action": action, "kind": kind, "id": document},
        **{"outcome": outcome, "code": code, "since": moment(since, now), "until": moment(until, now)},
        **{"all": "true" if everything else None},
    }
    asked = {name: value for name, value in given.items() if value is not None}
    with remote() as client:
        if as_json:
            print_json(list(items(client, asked, limit)))
            return
        for item in items(client, asked, limit):
            plain(line(item))


# ── agents ──


@agents.command("list")
def list_agents(as_json: AsJson = False) -> None:
    with remote() as client:
        found = _items(client, "/agents")
    if as_json:
        print_json(found)
        return
    rows = [["NAME", "STATE", "ADVISED", "EPOCH", "BROKER", "LAST SEEN"]]
    for agent in found:
        s = agent["status"]
        advised, broker = "yes" if s["advised"] else "no", s["endpoint"] or "-"
        rows.append([agent["id"], s["state"], advised, str(s["epoch"]), broker, s["last_seen"] or "-"])
    table(rows, indent="")


@agents.command()
def advise(agent: Annotated[str | None, typer.Argument(help="One agent; else all that lack it.")] = None) -> None:
    """Tell agents who is primary and which brokers to use."""
    with remote() as client:
        told = client.request("POST", "/agents/advise" if agent is None else path("agents", agent, "advise"))
    plain(f"told: {', '.join(told['told']) or 'none lacked it'}")


@agents.command()
def rotate(
    agent: Annotated[str | None, typer.Argument(help="One agent.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every agent.")] = False,
) -> None:
    """Change an agent's password on the broker, while it works."""
    if (agent is None) != every:
        raise typer.BadParameter("name one agent, or give --all")
    with remote() as client:
        names = [agent] if agent is not None else [one["id"] for one in _items(client, "/agents")]
        for name in names:
            client.request("POST", path("agents", name, "credential"))
    plain(f"{len(names)} asked for a new password; `agents list` shows who does not follow yet.")


@agents.command()
def remove(agent: str) -> None:
    """Forget an agent and shut it out."""
    with remote() as client:
        client.request("DELETE", path("agents", agent))
    plain(f"{agent} is removed.")


# ── databases and accounts ──


def _list(kind: str, instance: str, *, as_json: bool) -> None:
    with remote() as client:
        found = _items(client, path("instances", instance, kind))
    if as_json:
        print_json(found)
        return
    rows = [["NAME", "PHASE", "WANTED", "MESSAGE"]]
    for item in found:
        wanted = ", ".join(f"{key}={value}" for key, value in item["spec"].items() if key != "grants")
        rows.append(
            [item["id"].partition("/")[2], item["status"]["phase"], wanted or "-", item["status"].get("message", "")]
        )
    table(rows, indent="")


def _delete(kind: str, instance: str, name: str, *, drop: bool) -> None:
    with remote() as client:
        client.request("DELETE", path("instances", instance, kind, name), parameters={"drop": "true"} if drop else {})
    plain(f"{instance}/{name} {'will be dropped' if drop else 'is forgotten; it stays on the server'}.")


def _saved(document: dict[str, Any]) -> None:
    plain(f"{document['id']}: {document['status']['phase']}, revision {document['revision']}")


@databases.command("list")
def list_databases(instance: Instance, as_json: AsJson = False) -> None:
    _list("databases", instance, as_json=as_json)


@databases.command("put")
def put_database(
    instance: Instance,
    name: str,
    charset: Annotated[str | None, typer.Option()] = None,
    collation: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Create a database, or change its character set and collation."""
    body = {key: value for key, value in (("charset", charset), ("collation", collation)) if value is not None}
    with remote() as client:
        _saved(client.request("PUT", path("instances", instance, "databases", name), body))


@databases.command("delete")
def delete_database(instance: Instance, name: str, drop: Drop = False) -> None:
    _delete("databases", instance, name, drop=drop)


@accounts.command("list")
def list_accounts(instance: Instance, as_json: AsJson = False) -> None:
    _list("accounts", instance, as_json=as_json)


@accounts.command("put")
def put_account(
    instance: Instance,
    name: str,
    host: Annotated[str, typer.Option(help="Where it may connect from.")] = "%",
    grant: Annotated[list[str] | None, typer.Option(help='"shop:SELECT,INSERT"; may be repeated.')] = None,
    password_file: Annotated[Path | None, typer.Option(help="Else the password stays as it is.")] = None,
) -> None:
    """Create an account, or change its grants, host or password."""
    body: dict[str, Any] = {"host": host, "grants": [_grant(text) for text in grant or []]}
    if password_file is not None:
        body["password"] = read_secret(password_file, "", "")
    with remote() as client:
        _saved(client.request("PUT", path("instances", instance, "accounts", name), body))


def _grant(text: str) -> dict[str, Any]:
    database, colon, privileges = text.rpartition(":")
    if not colon or not database:
        raise typer.BadParameter(f"{text!r}: expected DATABASE:PRIVILEGE,PRIVILEGE")
    return {"database": database, "privileges": [privilege.strip() for privilege in privileges.split(",")]}


@accounts.command("delete")
def delete_account(instance: Instance, name: str, drop: Drop = False) -> None:
    _delete("accounts", instance, name, drop=drop)


# ── settings ──


@settings.command("list")
def list_settings(as_json: AsJson = False) -> None:
    with remote() as client:
        found = _items(client, "/settings")
    if as_json:
        print_json(found)
        return
    table([["KEY", "VALUE"], *([s["id"], json.dumps(s["spec"]["value"])] for s in found)], indent="")


@settings.command("get")
def get_setting(key: str) -> None:
    with remote() as client:
        print_json(client.get(path("settings", key))["spec"]["value"])


@settings.command("put")
def put_setting(key: str, value: Annotated[str, typer.Argument(help="JSON; - reads it from stdin.")]) -> None:
    text = sys.stdin.read() if value == "-" else value
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON ({error}); text needs quotes: '\"text\"'") from None
    with remote() as client:
        document = client.request("PUT", path("settings", key), {"value": parsed})
    plain(f"{document['id']}: revision {document['revision']}")


@settings.command("delete")
def delete_setting(key: str) -> None:
    with remote() as client:
        client.request("DELETE", path("settings", key))
    plain(f"{key} is deleted.")


main = entry(app)
