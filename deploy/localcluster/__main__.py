"""deploy/quickstart: a whole Bellwether on this machine. See the package for what it starts."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from localcluster import report
from localcluster.cluster import Cluster
from localcluster.layout import Layout
from localcluster.ports import RANGE, NoPorts
from localcluster.process import ProcessFailed
from localcluster.records import exclusive
from localcluster.users import OURS, choose_users
from shared.files import user_name

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = "deploy/quickstart"
OK, FAILED, USAGE = 0, 1, 2


def main() -> int:
    """The command; its exit code: 0 done, 1 failed or something is down, 2 wrong usage."""
    arguments = _parse()
    layout = Layout(arguments.directory.absolute())
    if arguments.action in ("status", "down", "clean", "start") and not layout.ports_file.exists():
        print(f"Nothing has been started in {layout.root}.")
        return OK if arguments.action in ("down", "clean") else FAILED
    os.umask(0o077)
    try:
        if arguments.action == "status":
            return _status(_open(layout))
        layout.create(passable=layout.users_file.exists())
        with exclusive(layout.lock_file, lambda: _tell("Another quickstart is at work here; waiting for it ...")):
            if not layout.ports_file.exists():
                choose_users(layout.root, layout.users_file, _tell)
            return _change(arguments.action, arguments.name, _open(layout))
    except (ProcessFailed, NoPorts) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return FAILED
    except PermissionError as error:
        owner = user_name(layout.root.stat().st_uid) if layout.root.exists() else "root"
        print(f"{COMMAND}: {error}; it belongs to {owner}: run it as {owner}", file=sys.stderr)
        return FAILED


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="A whole Bellwether on this machine: broker, three providers, three MariaDB servers, agents.",
        epilog=f"{RANGE}=20000-21999 in the environment says which TCP ports a new one may take.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="up",
        choices=["up", "status", "start", "down", "clean"],
        help="up (default): start it, again does no harm · status: what runs where · start NAME: bring back one that "
        "was killed · down: end exactly what was started, data stays · clean: down, and delete the data",
    )
    parser.add_argument("name", nargs="?", help="for start: p1, db1, mariadb-db1, broker …")
    parser.add_argument(
        "--directory",
        type=Path,
        default=REPOSITORY / ".quickstart",
        help="where all data and logs are (default: .quickstart in the repository)",
    )
    arguments = parser.parse_args()
    if (arguments.action == "start") != (arguments.name is not None):
        parser.error("start needs the name of one member; the other actions take no name")
    return arguments


def _open(layout: Layout) -> Cluster:
    cluster = Cluster(layout.root, tell=_tell)
    cluster.take_ca()
    return cluster


def _change(action: str, name: str | None, cluster: Cluster) -> int:
    if action == "up":
        return _up(cluster)
    if name is not None:
        return _start(cluster, name)
    cluster.down(discard=action == "clean")
    if action == "clean":
        shutil.rmtree(cluster.layout.root)
        _tell(f"{cluster.layout.root} is deleted.")
        if cluster.users.own:
            _tell(f"The system users {' and '.join(OURS)} stay; `userdel` removes them.")
    return OK


def _up(cluster: Cluster) -> int:
    running = [name for name in cluster.members if cluster.alive(name)]
    if cluster.complete and running:
        # What was killed on purpose stays down: a person is trying what happens.
        _tell(report.table(cluster))
        _tell(report.missing(cluster, COMMAND) or "\nAll of it runs already; nothing was started.\n")
        _tell(report.what_to_try(cluster))
        return OK
    began = time.monotonic()
    _tell(f"Starting Bellwether in {cluster.layout.root} ...")
    try:
        cluster.up()
    except ProcessFailed as error:
        print(f"\n{COMMAND}: {error}\n{cluster.failure_report(told=str(error))}", file=sys.stderr)
        print(
            f"\nWhat was started still runs. {COMMAND} goes on from here, {COMMAND} down ends it, "
            f"{COMMAND} clean also deletes its data.",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print(f"\nInterrupted. {COMMAND} down ends what was started.", file=sys.stderr, flush=True)
        os._exit(130)  # steps that run at the same time are not waited for
    _tell(f"All healthy after {time.monotonic() - began:.1f} s.\n\n{report.table(cluster)}\n")
    _tell(f"{report.what_to_try(cluster)}\n\n{COMMAND} down ends it all; {COMMAND} status tells how it is.")
    return OK


def _start(cluster: Cluster, name: str) -> int:
    if name not in cluster.members:
        print(f"{COMMAND}: there is no {name}; there are {', '.join(cluster.members)}", file=sys.stderr)
        return USAGE
    if cluster.alive(name):
        _tell(f"{name} runs already.")
        return OK
    cluster.start(name)
    return OK


def _status(cluster: Cluster) -> int:
    _tell(report.table(cluster))
    down = report.missing(cluster, COMMAND)
    if down:
        _tell(down)
    return FAILED if down else OK


def _tell(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # the reader has left (`| head`); what is being started is started all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
