"""`failover`: makes this node primary, says what that would do, or tries it there and back. Run on the node itself."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from provider.cli.console import DEFAULT_CONFIG, AsJson, Config, application, daemon, entry, fail, plain, print_json
from provider.cli.promote import ELSEWHERE, promote
from provider.cli.rehearse import rehearse
from provider.cli.show import show_status
from provider.client import Client
from provider.promotion import CATCH_UP_S, WAIT_S
from provider.settings import Files, not_allowed
from shared.errors import BellwetherError
from shared.files import read_text

app = application("Make this node primary; or see whether it could be.")


class Operation(StrEnum):
    promote = "promote"
    preflight = "preflight"
    status = "status"
    rehearse = "rehearse"


Force = Annotated[
    bool,
    typer.Option(
        help="promote: also a node that is in maintenance, and where something may be missing. Where the majority of "
        "the brokers is gone for good, say what a log of this node's own costs, ask, and begin it."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="With --force: begin a log of its own without asking.")]
Wait = Annotated[
    float, typer.Option(help="Seconds to wait for brokers that give no sign.", min=0.1, max=CATCH_UP_S, metavar="S")
]


@app.command()
def failover(
    operation: Annotated[Operation, typer.Option(help="promote, preflight, status or rehearse.")],
    config: Config = DEFAULT_CONFIG,
    force: Force = False,
    yes: Yes = False,
    wait: Wait = WAIT_S,
    as_json: AsJson = False,
) -> None:
    """promote: make THIS node primary, whether the old primary lives or not. preflight: the same checks, nothing is
    changed. status: role, epoch, revision, how far behind. rehearse: on a healthy cluster, promote this node and then
    the old primary again, with writes going on, and report what they noticed."""
    try:
        config.stat()
    except FileNotFoundError:
        fail(_no_provider(config))
    except PermissionError:
        raise not_allowed(config) from None
    with daemon(config, otherwise=ELSEWHERE if operation is Operation.promote else "") as (settings, client):
        match operation:
            case Operation.status:
                _status(settings.name, client, as_json=as_json)
            case Operation.preflight:
                _preflight(settings.name, client, force=force, wait_s=wait, as_json=as_json)
            case Operation.promote:
                promote(settings.name, client, force=force, yes=yes, wait_s=wait, as_json=as_json)
            case Operation.rehearse:
                rehearse(settings, Files(config), client, wait_s=wait, as_json=as_json)


def _no_provider(config: Path) -> str:
    """What is said on a host that is none of ours, or an agent's."""
    said = f"{config}: not found; this host is no provider. Run this on the standby that shall be primary"
    try:
        known = json.loads(read_text(config.parent / "broker.json"))["providers"]
    except (BellwetherError, OSError, ValueError, LookupError, TypeError):
        return said
    return f"{said}; this host's agent knows {', '.join(map(str, known))}" if isinstance(known, list) else said


def _status(node: str, client: Client, *, as_json: bool) -> None:
    cluster = client.get("/cluster")
    here: dict[str, Any] = next((n for n in cluster["nodes"] if n["name"] == node), {})
    if as_json:
        print_json({"epoch": cluster["epoch"], "primary": cluster["primary"], **here})
        return
    show_status(node, cluster)


def _preflight(node: str, client: Client, *, force: bool, wait_s: float, as_json: bool) -> None:
    asked = {"operation": "preflight", "node": node, "force": force, "wait_s": wait_s}
    found = client.request("POST", "/failover", asked)
    if as_json:
        print_json(found)
    else:
        for check in found["checks"]:
            mark = "FAIL" if not check["ok"] else "warn" if check["warning"] else "ok"
            plain(f"{mark:<5} {check['check']:<7} {check['detail']}")
        verdict = "promote would work" if found["ok"] else "promote would be refused"
        plain(f"{node}: {verdict}; nothing was changed")
    if not found["ok"]:
        why = "; ".join(check["detail"] for check in found["checks"] if not check["ok"])
        fail(f"{node} would not be promoted: {why}")


main = entry(app)
