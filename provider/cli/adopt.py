"""`provider adopt`: after a restore, what is on the servers and not in the backup, and the other way round."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from provider.cli.console import DEFAULT_CONFIG, AsJson, Config, application, daemon, fail, plain, print_json, table
from provider.client import Client, path

app = application("After a restore: decide on what the servers have and the backup has not, and the other way round.")
AT_ONCE = 500
Instance = Annotated[str | None, typer.Argument(help="One instance; none: all.")]
Databases = Annotated[list[str] | None, typer.Option("--database", help="This one; may be repeated.")]
Accounts = Annotated[list[str] | None, typer.Option("--account", help="This one; may be repeated.")]
All = Annotated[bool, typer.Option("--all", help="All there is to decide on.")]


@app.command("list")
def list_(instance: Instance = None, config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """What is to be decided: wishes that are held, and what is on servers and in no wish."""
    with daemon(config) as (_, client):
        items, restored = _items(client, instance)
    if as_json:
        print_json({"restored": restored, "items": items})
        return
    if restored is not None:
        survivor, of = restored["backup"].get("survivor"), restored["backup"]["at"]
        where = f"from the backup of {of}" if survivor is None else f"with what {survivor} held of {of}"
        plain(f"restored {restored['at']} {where}")
        for name in restored["forgotten"]:
            plain(f"  was being dropped, and is left alone: {name}")
    if not items:
        plain("Nothing is to be decided." + (" Next: provider adopt done" if restored is not None else ""))
        return
    rows = [["INSTANCE", "KIND", "NAME", "STATE", "WHAT"]]
    rows += [[i["instance"], i["kind"], i["name"], i["state"], _what(i)] for i in items]
    table(rows, indent="")
    plain("take: the cluster wishes what the server has. release: the server is made as the wish says.")


def _what(item: dict[str, Any]) -> str:
    if item["state"] == "unmanaged":
        return item["message"] or "on the server, in no wish"
    return item["message"] or "not looked at yet"


@app.command()
def take(
    instance: Instance = None,
    config: Config = DEFAULT_CONFIG,
    database: Databases = None,
    account: Accounts = None,
    all_: All = False,
) -> None:
    """Have the cluster wish what the server has. Nothing on the server is changed; what it lacks is forgotten."""
    _decide(config, "adopt", instance, database, account, all_=all_, done="taken over")


@app.command()
def release(
    instance: Instance = None,
    config: Config = DEFAULT_CONFIG,
    database: Databases = None,
    account: Accounts = None,
    all_: All = False,
) -> None:
    """Have the server made as the backup says: what is missing is made, passwords and privileges are set."""
    _decide(config, "release", instance, database, account, all_=all_, done="released", only="held")


@app.command()
def ignore(
    instance: Instance = None,
    config: Config = DEFAULT_CONFIG,
    database: Databases = None,
    account: Accounts = None,
    all_: All = False,
) -> None:
    """Leave what is on the server and in no wish, and do not list it any more."""
    _decide(config, "ignore", instance, database, account, all_=all_, done="ignored", only="unmanaged")


@app.command()
def done(config: Config = DEFAULT_CONFIG) -> None:
    """The review has ended. Refused while wishes are held."""
    with daemon(config) as (_, client):
        client.request("DELETE", "/adoption")
    plain("The review after the restore has ended.")


def _decide(
    config: Any,
    verb: str,
    instance: str | None,
    databases: list[str] | None,
    accounts: list[str] | None,
    *,
    all_: bool,
    done: str,
    only: str | None = None,
) -> None:
    """One request for each instance that is concerned; `only` what is in this state, where all is meant."""
    named = bool(databases or accounts)
    if named == all_ or (named and instance is None):
        raise typer.BadParameter("give an instance and --database or --account; or --all")
    with daemon(config) as (_, client):
        if named and instance is not None:
            chosen = {instance: {"databases": databases or [], "accounts": accounts or []}}
        else:
            chosen, left = _all(client, instance, verb, only)
            for item in left:
                plain(f"left: {item['kind']} {item['name']} of {item['instance']}: {_what(item)}")
        for one, body in chosen.items():
            for part in _parts(body):
                client.request("POST", path("instances", one, verb), part)
            plain(f"{one}: {len(body['databases'])} databases, {len(body['accounts'])} accounts {done}")
    if not chosen:
        fail("nothing is to be decided that could be")


def _parts(body: dict[str, list[str]]) -> Iterator[dict[str, list[str]]]:
    """One request takes so many."""
    for kind, names in body.items():
        for start in range(0, len(names), AT_ONCE):
            yield {"databases": [], "accounts": []} | {kind: names[start : start + AT_ONCE]}


def _all(
    client: Client, instance: str | None, verb: str, only: str | None
) -> tuple[dict[str, dict[str, list[str]]], list[dict[str, Any]]]:
    """Names by instance, and what cannot be meant."""
    chosen: dict[str, dict[str, list[str]]] = {}
    left = []
    for item in _items(client, instance)[0]:
        if only is not None and item["state"] != only:
            continue
        if verb == "adopt" and not item["adoptable"]:
            left.append(item)
            continue
        body = chosen.setdefault(item["instance"], {"databases": [], "accounts": []})
        body["databases" if item["kind"] == "database" else "accounts"].append(item["name"])
    return chosen, left


def _items(client: Client, instance: str | None) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    items: list[dict[str, Any]] = []
    parameters = {"limit": "1000"} | ({"instance": instance} if instance is not None else {})
    while True:
        page = client.get("/adoption", **parameters)
        items += page["items"]
        if page["next"] is None:
            return items, page["restored"]
        parameters["after"] = page["next"]
