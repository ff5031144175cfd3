"""The `agent` command. `run` goes a way of its own: the daemon stays small by never loading what only commands need."""

import sys
from collections.abc import Sequence
from pathlib import Path

from agent.foreground import DEFAULT_CONFIG, run_daemon


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Carry out one command line; the exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    config = _plain_run(arguments)
    if config is not None:
        return run_daemon(config)
    from agent.commands import run_app  # typer: 20 MB that a daemon does without

    return run_app(arguments)


def _plain_run(arguments: Sequence[str]) -> Path | None:
    """The configuration where this is `run [--config FILE]` and nothing else; any other form is typer's to judge."""
    match list(arguments):
        case ["run"]:
            return Path(DEFAULT_CONFIG)
        case ["run", "--config", config] if not config.startswith("-"):
            return Path(config)
        case ["run", option] if option.startswith("--config="):
            return Path(option.partition("=")[2])
    return None
