"""The command `configure`; see there."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from balancing.configurations import haproxy, keepalived
from balancing.options import Options, Wrong, read_options, with_nodes
from balancing.services import read, services

OPTIONS = Path("/etc/bellwether-balancing.toml")
ABOUT = "Makes the configuration of HAProxy and of keepalived from the list of nodes; `apply` also puts it to use."


def _apply(options: Options) -> None:
    found = services(options)
    if not found:
        raise Wrong("neither [haproxy] nor [keepalived] is there")
    for service in found:
        print(f"{service.file}: {'changed, and in use' if service.apply() else 'as it should be'}")


def _print(made: Callable[[Options], str]) -> Callable[[Options], None]:
    return lambda options: print(made(options), end="")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=ABOUT)
    parser.add_argument("command", choices=("haproxy", "keepalived", "apply"))
    parser.add_argument("--options", type=Path, default=OPTIONS, help=f"default: {OPTIONS}")
    said = parser.parse_args(arguments)
    does = {"haproxy": _print(haproxy), "keepalived": _print(keepalived), "apply": _apply}
    try:
        does[said.command](with_nodes(read_options(read(said.options).decode())))
    except (Wrong, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
