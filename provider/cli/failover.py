"""`failover`: makes this node primary, or says what that would do. Run on the node itself."""

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from provider.cli.console import DEFAULT_CONFIG, AsJson, Config, application, daemon, entry, fail, plain, print_json
from provider.cli.show import show_status
from provider.client import Broken, Client

app = application("Make this node primary; or see whether it could be.")


class Operation(StrEnum):
    promote = "promote"
    preflight = "preflight"
    status = "status"


@app.command()
def failover(
    operation: Annotated[Operation, typer.Option(help="promote, preflight or status.")],
    config: Config = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option(help="Promote also where acknowledged writes could be lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """promote: make THIS node primary, whether the old primary lives or not. preflight: the same checks, nothing is
    changed. status: role, epoch, revision, how far behind."""
    with daemon(config) as (settings, client):
        match operation:
            case Operation.status:
                _status(settings.name, client, as_json=as_json)
            case Operation.preflight:
                _preflight(settings.name, client, as_json=as_json)
            case Operation.promote:
                _promote(settings.name, client, force=force, as_json=as_json)


def _status(node: str, client: Client, *, as_json: bool) -> None:
    cluster = client.get("/cluster")
    here: dict[str, Any] = next((n for n in cluster["nodes"] if n["name"] == node), {})
    if as_json:
        print_json({"epoch": cluster["epoch"], "primary": cluster["primary"], **here})
        return
    show_status(node, cluster)


def _preflight(node: str, client: Client, *, as_json: bool) -> None:
    found = client.request("POST", "/failover", {"operation": "preflight", "node": node})
    if as_json:
        print_json(found)
    else:
        for check in found["checks"]:
            mark = "FAIL" if not check["ok"] else "warn" if check["warning"] else "ok"
            plain(f"{mark:<5} {check['check']:<7} {check['detail']}")
        verdict = "promote would work" if found["ok"] else "promote would be refused"
        plain(f"{node}: {verdict}; nothing was changed")
    if not found["ok"]:
        raise typer.Exit(1)


def _promote(node: str, client: Client, *, force: bool, as_json: bool) -> None:
    last: dict[str, Any] = {}
    steps: list[dict[str, Any]] = []
    try:
        for last in _lines(client, node, force=force):
            if "step" in last:
                steps.append(last)
                if not as_json:
                    plain(f"{last['ms'] / 1000:7.3f} s  {last['step']:<8} {last['detail']}")
    except Broken as error:
        fail(f"the connection to the provider on this host broke ({error.detail}); see `failover --operation status`")
    if as_json:
        print_json({**last, "steps": steps})
    _conclude(node, last, as_json=as_json)


def _lines(client: Client, node: str, *, force: bool) -> Iterator[dict[str, Any]]:
    for line in client.lines("POST", "/failover", {"operation": "promote", "node": node, "force": force}):
        yield json.loads(line)


def _conclude(node: str, last: dict[str, Any], *, as_json: bool) -> None:
    result = last.get("result")
    if result in ("promoted", "already_primary"):
        if not as_json:
            _tell(node, last)
        return
    fail(last.get("detail", "the provider ended the promotion without a result; see `failover --operation status`"))


def _tell(node: str, last: dict[str, Any]) -> None:
    if last["result"] == "already_primary":
        plain(f"{node} is already primary: epoch {last['epoch']}, revision {last['revision']}. Nothing was changed.")
    else:
        plain(f"{node} is primary: epoch {last['epoch']}, revision {last['revision']}. Writes are accepted.")
    agents = last["agents"]
    if agents["missing"]:
        plain(
            f"not advised yet: {', '.join(agents['missing'])} ({agents['advised']} of {agents['total']} agents follow)."
        )
        plain("They are advised as soon as they are heard of again; `provider status` shows who is still missing.")


main = entry(app)
