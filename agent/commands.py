"""The commands around the daemon, with typer. Only `agent run` is elsewhere, see `agent.cli`."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from agent import brokerfile
from agent.enrolment import enroll as enroll_agent
from agent.enrolment import fetch_advice, tell_credential
from agent.foreground import DEFAULT_CONFIG, run_daemon
from agent.settings import AgentFiles, AgentSettings, load_settings, parse_settings
from agent.status import read_status
from shared.errors import BellwetherError, Invalid, Refused
from shared.output import show_what_can_be_shown
from shared.version import VERSION

TOKEN_VARIABLE = "BELLWETHER_TOKEN"  # noqa: S105 - a name, not a token

app = typer.Typer(
    help="Bellwether's agent: makes the database servers of this host match what the control plane wishes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The agent's configuration.")]
CONFIG = Path(DEFAULT_CONFIG)


def run_app(arguments: Sequence[str]) -> int:
    """Carry out a command; the exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    show_what_can_be_shown()
    try:
        app(list(arguments), prog_name="agent", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BellwetherError as error:
        print(f"agent: {error.detail}", file=sys.stderr)  # noqa: T201 - a command's one line
        return 1
    except OSError as error:
        print(f"agent: {error}; check the path, its owner and the space left", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def enroll(
    urls: Annotated[str, typer.Argument(metavar="URL[,URL...]", help="Providers; each is tried in turn.")],
    config: Config = CONFIG,
    agent_id: Annotated[
        str | None, typer.Option("--id", help="This agent's name, as a host name: a-z, 0-9, - and _.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Holds the one-time agent token. Without it: ${TOKEN_VARIABLE}, else a prompt."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="The database server's kind: mariadb.")] = "mariadb",
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="The server's local socket.")] = None,
    host: Annotated[str | None, typer.Option(help="Or its address ...")] = None,
    port: Annotated[int | None, typer.Option(help="... and port.")] = None,
    user: Annotated[str, typer.Option(help="The account that the agent uses.")] = "root",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds that account's password; none for unix_socket.")
    ] = None,
    instance_id: Annotated[str | None, typer.Option(help="The instance's name.  [default: the agent's]")] = None,
) -> None:
    """Make this host's agent known to a cluster, with a one-time token.

    Writes agent.toml, broker.json, broker.password, api.token and ca.pem beside FILE. An agent.toml that is there
    already is used as it is, and then --id and the server's options are not needed.
    """
    files = AgentFiles(config)
    given = {
        "id": instance_id,
        "engine": engine,
        "socket": socket.absolute() if socket else None,
        "host": host,
        "port": port,
        "user": user,
        "password_file": password_file.absolute() if password_file else None,
    }
    given = {key: value for key, value in given.items() if value is not None}
    text = None if config.exists() else _new_config(agent_id, given)
    settings = load_settings(config) if text is None else parse_settings(text, config)
    if text is None:
        _check_same(config, settings, agent_id, given)
    broker = enroll_agent(_split(urls), _token(token_file), settings, files, text)
    then = f"start it with: {_begin(config)}"
    typer.echo(f"enrolled {settings.id}: primary {broker.primary}, epoch {broker.epoch}; {then}")


@app.command()
def run(config: Config = CONFIG) -> None:
    """Run the daemon in the foreground. SIGTERM ends it cleanly; it tells systemd once it is connected."""
    raise typer.Exit(run_daemon(config))


@app.command()
def status(
    config: Config = CONFIG, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show what the daemon is connected to, its epoch and revision, and its instances. Exit 1 where it does not run."""
    settings = load_settings(config)
    content = {"id": settings.id} | (read_status(AgentFiles(config).status) or {"state": "never started"})
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False) if as_json else readable(content))
    if content["state"] != "running":
        raise Invalid(f"the daemon of {settings.id} does not run; start it with: {_begin(config)}")


@app.command()
def advise(
    urls: Annotated[str, typer.Argument(metavar="URL[,URL...]", help="Providers; each is tried in turn.")],
    config: Config = CONFIG,
) -> None:
    """Pull the current broker settings from a provider into broker.json; a running daemon takes them up at once."""
    files, settings = AgentFiles(config), load_settings(config)
    new = brokerfile.from_advice(fetch_advice(_split(urls), settings, files), files)
    brokerfile.check_not_older(new, files)
    with suppress(Refused):  # by a provider that is older than this
        tell_credential(_split(urls), settings, files)
    brokerfile.write_unless_newer(new, files)  # that took its time, and the daemon may have been told meanwhile
    typer.echo(f"{files.broker}: primary {new.primary}, epoch {new.epoch}, endpoints {', '.join(new.endpoints)}")


def _begin(config: Path) -> str:
    """How the daemon is started. Where it is installed it has a user of its own, which the database server knows."""
    return "systemctl start bellwether-agent" if config == CONFIG else f"agent run --config {config}"


def _split(urls: str) -> list[str]:
    return [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]


def _token(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise Invalid(f"the token cannot be read: {error}") from None
    if TOKEN_VARIABLE in os.environ:
        return os.environ[TOKEN_VARIABLE].strip()
    if sys.stdin.isatty():
        return str(typer.prompt("One-time agent token", hide_input=True)).strip()
    raise Invalid(f"no token: give --token-file or set {TOKEN_VARIABLE}; make one: provider token create --role agent")


def _new_config(agent_id: str | None, instance: dict[str, Any]) -> str:
    """agent.toml for one instance. JSON's strings and numbers are TOML's too."""
    if agent_id is None:
        raise typer.BadParameter("needed where there is no agent.toml yet", param_hint="--id")
    given = {"id": agent_id} | instance
    lines = [f"id = {json.dumps(agent_id)}", "", "[[instances]]"]
    lines += [f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}" for key, value in given.items()]
    return "\n".join(lines) + "\n"


def _check_same(config: Path, settings: AgentSettings, agent_id: str | None, given: dict[str, Any]) -> None:
    """An agent.toml that is there is not changed; options that say otherwise must not be lost silently."""
    if agent_id not in (None, settings.id):
        raise Invalid(f"{config} is of agent {settings.id}, not {agent_id}; remove it or leave --id out")
    if "socket" in given or "host" in given:
        if any(all(getattr(one, key) == value for key, value in given.items()) for one in settings.instances):
            return
        raise Invalid(f"{config} exists and names other servers; edit it, or remove it and enrol again")


def readable(content: dict[str, Any]) -> str:
    lines = [f"agent {content['id']}: {content['state']}"]
    if "pid" in content:
        lines[0] += f" (pid {content['pid']})" if content["state"] == "running" else ""
        lines.append(f"  broker    {content['endpoint'] or 'not connected'}")
        if content["state"] == "running" and content.get("why"):
            lines.append(f"            {content['why']} (since {content['why_since']})")
        lines.append(f"  primary   {content['primary']}, epoch {content['epoch']}, revision {content['revision']}")
    if content.get("broker_file_error"):
        lines.append(f"  ! {content['broker_file_error']} (the settings before stay in use)")
    if content.get("skipped"):
        lines.append("  skipped   " + ", ".join(f"{count} {kind}" for kind, count in content["skipped"].items()))
    for one in content.get("instances", ()):
        read_only = ", read-only" if one["read_only"] else ""
        what = f"{one['role']}{read_only}, {one['version']}" if one["state"] == "up" else one["message"]
        lines.append(f"  {one['id']:<9} {one['engine']} {one['state']}: {what}")
        if one["state"] == "up":
            lines.append(f"            {one['databases']} databases, {one['accounts']} accounts")
        lines += [f"  ! {failure}" for failure in one["failed"]]
    return "\n".join(lines)
