"""`failover --operation rehearse`: promotes this node and the old primary again while writers write, and reports."""

import sys
import time
from typing import Any

import typer

from provider.cli.console import plain, print_json
from provider.cli.promote import INTERRUPTED, interruptible, tell
from provider.cli.rehearsing import Rehearsal
from provider.client import Client, as_node, with_token
from provider.rehearsal import report, whereabouts
from provider.settings import Files, ProviderSettings
from shared.errors import BellwetherError


def rehearse(settings: ProviderSettings, files: Files, local: Client, *, wait_s: float, as_json: bool) -> None:
    """Raises `typer.Exit` with 1 where anything was lost or failed, or the cluster was not fit for it."""

    def make(url: str, token: str | None) -> Client:
        return as_node([url], files) if token is None else with_token([url], token, files.ca)

    def said(text: str) -> None:
        if not as_json:
            tell(lambda: plain(text))

    rehearsal = Rehearsal(settings.name, local, make, said, wait_s)
    try:
        try:
            rehearsal.check()
        except BellwetherError as error:
            _refused(settings.name, error, as_json=as_json)
        began_s = time.monotonic()
        said(f"Rehearsal on {settings.name}: writes go on through {', '.join(rehearsal.urls)} while it lasts.")
        with interruptible():
            outcome = rehearsal.perform()
    finally:
        rehearsal.close()
    found = report(outcome, time.monotonic() - began_s)
    where = whereabouts(outcome, rehearsal.before)
    if as_json:
        tell(lambda: print_json({**found, "whereabouts": where}))
    else:
        tell(lambda: _show(found))
    if found["result"] == "clean":
        said(f"Clean: nothing was lost and nothing failed. {where}.")
        return
    plain(f"error: the rehearsal {_what(found)}. {where}", file=sys.stderr)
    interrupted = (outcome.trouble or "").startswith("interrupted")
    raise typer.Exit(INTERRUPTED if interrupted else 1)


def _refused(node: str, error: BellwetherError, *, as_json: bool) -> None:
    if as_json:
        tell(lambda: print_json({"result": "refused", "node": node, "code": error.code, "detail": error.detail}))
    plain(f"error: {error.detail}", file=sys.stderr)
    raise typer.Exit(1)


def _what(found: dict[str, Any]) -> str:
    writes = found["writes"]
    if found["result"] == "failed":
        return f"did not come to its end: {found['detail']}"
    return f"is not clean: {writes['lost']} writes lost, {writes['failed']} failed, {writes['twice']} done twice"


def _show(found: dict[str, Any]) -> None:
    writes = found["writes"]
    usual = f", usually in {writes['usual_ms']:g} ms" if writes["usual_ms"] is not None else ""
    again = f", {writes['asked_again']} asked again" if writes["asked_again"] else ""
    plain()
    plain(f"writes   {writes['made']} made{usual}{again}; {writes['failed']} failed, {writes['lost']} lost")
    for error in writes["errors"]:
        plain(f"         failed: {error}")
    for what in found["lost"]:
        plain(f"         LOST: {what}")
    for way in found["directions"]:
        agents = way["agents"]
        away = f"; did not follow: {', '.join(agents['did_not_follow'])}" if agents["did_not_follow"] else ""
        plain(
            f"{way['from']} → {way['to']}  longest stall of a write {way['longest_stall_ms']:g} ms; the command took "
            f"{way['promotion_ms']:g} ms; {agents['follow']} of {agents['online']} online agents followed{away}"
        )
    for what in found["left"]:
        plain(f"left     {what}")
