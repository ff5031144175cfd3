"""`provider maintenance`: takes this node out of service so that it can be stopped, and puts it back."""

import time
from typing import Annotated, Any

import typer

from provider.cli.console import DEFAULT_CONFIG, AsJson, Config, application, daemon, fail, plain, print_json
from provider.client import Client, path

app = application("Take this node out of service before it is stopped; put it back.")
WAIT_S = 120.0
LOOK_S = 0.5
TELL_S = 5.0

Reason = Annotated[str | None, typer.Option(help="Why, in words: shown wherever the node is.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait at most until its clients have left; 0: not at all.")]


@app.command()
def on(config: Config = DEFAULT_CONFIG, reason: Reason = None, wait: Wait = WAIT_S, as_json: AsJson = False) -> None:
    """Begin. Returns when nobody uses this node any more, so that the next command may be `systemctl stop`. It stays in
    maintenance, through restarts too, until `off`. The primary refuses: promote another node first."""
    with daemon(config) as (settings, client):
        place = path("nodes", settings.name, "maintenance")
        client.request("PUT", place, {"reason": reason} if reason is not None else {})
        if not as_json:
            plain(f"{settings.name} is in maintenance: load balancers leave it, its agents prefer other brokers.")
        use = _drained(client, place, wait, quiet=as_json)
    if as_json:
        print_json(use)
    elif use["drained"]:
        plain("Nobody uses it any more: it may be stopped now.")
    if not use["drained"]:
        fail(f"{_left(use)}: clients lose their connections when it is stopped. The same command again waits longer")


@app.command()
def off(config: Config = DEFAULT_CONFIG) -> None:
    """End: as soon as this node has read the log to its end, load balancers use it again."""
    with daemon(config) as (settings, client):
        client.request("DELETE", path("nodes", settings.name, "maintenance"))
        plain(f"{settings.name} is not in maintenance any more.")


def _drained(client: Client, place: str, wait_s: float, *, quiet: bool) -> dict[str, Any]:
    """How this node is used, once it is not used any more or `wait_s` are over."""
    began_s = told_s = time.monotonic()
    while True:
        use: dict[str, Any] = client.get(place)
        now_s = time.monotonic()
        if use["drained"] or now_s - began_s >= wait_s:
            return use
        if not quiet and now_s - told_s >= TELL_S:
            told_s = now_s
            plain(f"{_left(use)}; waiting, {wait_s - (now_s - began_s):.0f} s at most")
        time.sleep(LOOK_S)


def _left(use: dict[str, Any]) -> str:
    if use["connections"] or use["requests"]:
        return f"{use['connections']} connections and {use['requests']} requests of clients are left"
    return f"The last request came {use['quiet_s']:g} s ago"
