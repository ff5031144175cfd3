"""`provider backup`: makes backups of the cluster's state, and looks at them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from provider.cli.console import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    application,
    daemon,
    plain,
    print_json,
    read_secret,
    table,
)
from provider.settings import Files, set_apart
from shared.errors import Invalid, Refused

app = application("Back up the cluster's state; `provider restore` makes a cluster of it again.")
PASSPHRASE = "BELLWETHER_BACKUP_PASSPHRASE"  # noqa: S105 - a name, not a passphrase
RECOVERY = "BELLWETHER_RECOVERY_KEY"

To = Annotated[str | None, typer.Option(help="A directory, or s3://bucket/prefix. Default: the setting backup.to.")]
Keep = Annotated[int | None, typer.Option(min=1, help="Then remove all but so many of this cluster's backups there.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Close it with this passphrase instead of for the recovery key.")
]
Endpoint = Annotated[
    str | None, typer.Option("--s3-endpoint", help="Address of an S3 storage that is not Amazon's. Default: as set.")
]
RecoveryFile = Annotated[Path | None, typer.Option("--recovery-key-file", help="See `provider backup key`.")]
OpenedWith = Annotated[Path | None, typer.Option("--passphrase-file", help="Where it was closed with a passphrase.")]
Backup = Annotated[
    str, typer.Argument(metavar="FILE", help="The backup: a file, a directory (its newest one), or s3://bucket/name.")
]


@app.callback(invoke_without_command=True)
def make(
    context: typer.Context,
    config: Config = DEFAULT_CONFIG,
    to: To = None,
    keep: Keep = None,
    passphrase_file: PassphraseFile = None,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Make a backup now: one file, encrypted, of all that the cluster is made of. The cluster goes on meanwhile.

    It is closed for the cluster's recovery key (`provider backup key`), or with a passphrase."""
    if context.invoked_subcommand is not None:
        return
    from provider.backup.content import Content
    from provider.backup.making import make as make_backup
    from provider.backup.making import recovery_of, tidy
    from provider.backup.recovery import Closing, Passphrase
    from provider.backup.schedule import NO_KEY
    from provider.backup.targets import target_of
    from provider.snapshot import read_snapshot
    from provider.trust.vault import Vault, data_keys
    from shared.files import read_text

    with daemon(config) as (settings, client):
        known = client.get("/backups")
        schedule = known["schedule"] or {}
        place = _place(to or schedule.get("to"))
        if endpoint is None and to in (None, schedule.get("to")):
            endpoint = _setting(client, "backup.s3_endpoint")
        target = target_of(place, endpoint=endpoint, credentials=Files(config).s3_credentials)
        cluster = client.get("/cluster")
        check_follows(cluster["nodes"], settings.name)
        newest = {"Bellwether-Min-Revision": str(cluster["revision"])}
        state, _ = read_snapshot(client.lines("GET", "/snapshot", headers=newest))
        keys = data_keys(state.of("key"), settings.name, read_text(Files(config).secrets_key))
        chosen: Closing | None = recovery_of(state, Vault(keys))
        if passphrase_file is not None:
            chosen = Passphrase(read_secret(passphrase_file, PASSPHRASE, "Passphrase"))
        if chosen is None:
            raise Refused(f"{NO_KEY}; or give --passphrase-file")
        made = make_backup(Content(state, keys, set_apart(settings)), settings.name, [chosen], target)
        scheduled = to is None or to == schedule.get("to")
        client.request("POST", "/backups", {"made": dict(made.noted()), "scheduled": scheduled})
        gone = tidy(target, made.name, keep) if keep is not None else []
    if as_json:
        print_json({**made.noted(), "removed": gone})
        return
    plain(made.where)
    plain(f"revision {made.revision}, epoch {made.epoch}, {made.documents} documents, {made.size_bytes} bytes")
    plain(f"sha256 {made.sha256}")
    for name in gone:
        plain(f"removed: {name}")


def check_follows(nodes: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raises `Refused` for a node whose state the cluster has left: a backup of it would lie among the others as if it
    were one of theirs."""
    here = next((node for node in nodes if node["name"] == name), None)
    state, reason = ("removed", None) if here is None else (here["state"], here["reason"])
    if state in ("out_of_sync", "removed"):
        why = f" ({reason})" if reason else ""
        raise Refused(
            f"{name} is {state}{why}: what it holds is not the cluster's state. Make the backup on another node"
        )


def _place(text: str | None) -> str:
    if text is None:
        raise Refused("where to? Give --to, or set backup.to (PUT /settings/backup.to)")
    return text if text.startswith("s3://") else str(Path(text).absolute())


def _setting(client: Any, key: str) -> str | None:
    from provider.client import Problem, path

    try:
        return str(client.get(path("settings", key))["spec"]["value"])
    except Problem as error:
        if error.answer_status == 404:
            return None
        raise


@app.command()
def key(
    out: Annotated[Path, typer.Option(help="Where the key goes: a new file, which is then taken away from this host.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Make the key that backups are opened with, and close them for it from now on.

    The cluster keeps only what it needs to close them. Whoever has this file and a backup has the whole cluster;
    without it no backup opens. Again: a new key. Backups that were made before stay with theirs."""
    from provider.backup.recovery import RecoveryKey
    from shared.files import write_atomically

    if out.exists():
        raise Invalid(f"{out} exists: a recovery key is not written over anything")
    made = RecoveryKey.new()
    with daemon(config) as (_, client):
        write_atomically(out, made.text() + "\n")
        half = made.clusters_half
        try:
            client.request("PUT", "/backups/key", {"public": half.public, "secret": half.secret})
        except BaseException:
            out.unlink()
            raise
    plain(f"The recovery key is in {out}; its public half is {half.public[:16]}….")
    plain("Take it away from this host and keep it where it survives all of them: no backup opens without it.")


@app.command("list")
def list_(config: Config = DEFAULT_CONFIG, to: To = None, endpoint: Endpoint = None, as_json: AsJson = False) -> None:
    """The backups that lie in a place: each cluster's together, the oldest of it first."""
    from provider.backup.targets import target_of

    if to is None:
        with daemon(config, otherwise=". Or give --to") as (_, client):
            to = (client.get("/backups")["schedule"] or {}).get("to")
            endpoint = endpoint or _setting(client, "backup.s3_endpoint")
    target = target_of(_place(to), endpoint=endpoint, credentials=Files(config).s3_credentials)
    names = target.names()
    if as_json:
        print_json([{"name": name, "where": target.shown(name)} for name in names])
        return
    for name in names:
        plain(target.shown(name))


@app.command()
def status(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """When the last backup was made, where it is, when the next one is due."""
    with daemon(config) as (_, client):
        known = client.get("/backups")
    if as_json:
        print_json(known)
        return
    for line in told(known):
        plain(line)


def told(known: dict[str, Any]) -> list[str]:
    """What `GET /backups` says, for people."""
    schedule, last, failed = known["schedule"], known["last"], known["failed"]
    lines = []
    if last is None:
        lines.append("backup: none was made yet" + ("" if schedule else ", none is scheduled (docs/BACKUP.md)"))
    else:
        lines.append(f"backup: the last one {last['at']}, revision {last['revision']}: {last['where']}")
    if schedule is not None:
        due = schedule["due_at"] or "now"
        lines.append(f"  each {schedule['every_h']:g} h to {schedule['to']} by {schedule['node']}, next {due}")
    if failed is not None:
        lines.append(f"  could not be made: {failed['why']}")
    return lines


@app.command()
def verify(
    file: Backup,
    config: Config = DEFAULT_CONFIG,
    recovery_key_file: RecoveryFile = None,
    passphrase_file: OpenedWith = None,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Look whether a backup is whole. With its key: open it, and read it as a restore would. Needs no daemon."""
    from provider.backup import container
    from provider.backup.content import read_content

    with opened_backup(file, config, endpoint) as (source, name):
        head, written = container.verify(source)
        opening = None
        if recovery_key_file is not None or passphrase_file is not None:
            opening = opening_of(recovery_key_file, passphrase_file)
            source.seek(0)
            read_content(container.read(source, opening))
    if as_json:
        print_json({"name": name, **head.public(), "sha256": written.sha256, "opened": opening is not None})
        return
    rows = [[name_, _shown(name_, value)] for name_, value in head.public().items()]
    plain(name)
    table([*rows, ["sha256", written.sha256]])
    plain(
        "It is whole, it opens, and what is in it can be restored."
        if opening is not None
        else "It is whole. Whether it opens is known only with its key (--recovery-key-file or --passphrase-file)."
    )


def _shown(name: str, value: Any) -> str:
    from provider.api.views import time_text

    return str(time_text(value) if name == "at" else value)


# ── also for `provider restore` ──


@contextmanager
def opened_backup(file: str, config: Path, endpoint: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """The backup, at its beginning, and what it is called."""
    from provider.backup.targets import opened

    source, name = opened(file, endpoint=endpoint, credentials=Files(config).s3_credentials)
    with closing(source):
        yield source, name


def opening_of(recovery_key_file: Path | None, passphrase_file: Path | None) -> Any:
    """What a backup is opened with: what was given, else what is asked for. Raises `Invalid`."""
    from provider.backup.recovery import Passphrase, RecoveryKey

    if passphrase_file is not None:
        return Passphrase(read_secret(passphrase_file, PASSPHRASE, "Passphrase"))
    return RecoveryKey.parse(read_secret(recovery_key_file, RECOVERY, "Recovery key"))
