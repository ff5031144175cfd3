"""`provider ca`: the cluster's certificate authorities, and how one takes the place of another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from provider.cli.console import DEFAULT_CONFIG, AsJson, Config, application, daemon, plain, print_json, table
from provider.client import path
from shared.files import read_text

app = application("Certificate authorities: look, replace one by another (`rotate`, then `drop` the old one).")
Certificate = Annotated[Path | None, typer.Option(help="A certificate authority of your own (PEM).")]
Key = Annotated[Path | None, typer.Option(help="Its private key (PEM, unencrypted). Kept sealed.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="See `provider ca list`.")]
Force = Annotated[bool, typer.Option(help="Do not wait for those who are missing: they are cut off.")]


@app.command("list")
def list_(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Whom the cluster trusts, until when, and who still keeps the next step back."""
    with daemon(config) as (_, client):
        found = client.get("/authorities")
    if as_json:
        print_json(found)
        return
    rows = [["ID", "SIGNS", "DAYS LEFT", "USED BY", "NAME"]]
    for one in found["items"]:
        status = one["status"]
        signs = "yes" if one["spec"]["signs"] else "no"
        rows.append(
            [one["id"], signs, f"{status['days_left']:.0f}", ", ".join(status["used_by"]) or "-", status["name"]]
        )
    table(rows, indent="")
    missing = found["items"][0]["status"]["not_trusted_by"] if found["items"] else []
    if missing:
        plain(f"not all of them are trusted yet by: {', '.join(missing)}")


@app.command()
def rotate(
    config: Config = DEFAULT_CONFIG, ca_certificate: Certificate = None, ca_key: Key = None, as_json: AsJson = False
) -> None:
    """Begin to replace the authority: a new one is trusted beside the old one, by nodes and agents. It signs as soon as
    all of them trust it, and certificates are renewed. Then `provider ca drop` the old one."""
    if (ca_certificate is None) != (ca_key is None):
        raise typer.BadParameter("--ca-certificate and --ca-key belong together")
    body: dict[str, Any] = {}
    if ca_certificate is not None and ca_key is not None:
        body = {"certificate": read_text(ca_certificate), "key": read_text(ca_key)}
    with daemon(config) as (_, client):
        added = client.request("POST", "/authorities", body)
    if as_json:
        print_json(added)
        return
    plain(f"authority {added['id']} is being made known; it signs as soon as all nodes and agents trust it.")
    plain(
        f"Give {config.parent / 'ca.pem'} to API clients of your own now: it holds the old authority and the new one."
    )
    plain("Next: provider ca list; when it signs and the old one is used by nobody: provider ca drop OLD")


@app.command()
def sign(authority: Id, config: Config = DEFAULT_CONFIG, force: Force = False) -> None:
    """Have an authority sign now. Without --force only where everybody trusts it: then it does so by itself."""
    with daemon(config) as (_, client):
        client.request("POST", path("authorities", authority, "sign"), parameters=_forced(force))
    plain(f"authority {authority} signs from now on; nodes renew their certificates by themselves.")


@app.command()
def drop(authority: Id, config: Config = DEFAULT_CONFIG, force: Force = False) -> None:
    """Trust an authority no more. Refused while anything still shows a certificate of it."""
    with daemon(config) as (_, client):
        client.request("DELETE", path("authorities", authority), parameters=_forced(force))
    plain(f"authority {authority} is not trusted any more; nodes and agents are told.")


def _forced(force: bool) -> dict[str, str]:
    return {"force": "true"} if force else {}
