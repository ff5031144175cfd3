"""The `agent` command. `run` goes a way of its own: the daemon stays small by never loading what only commands need."""

import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_CONFIG = "/etc/bellwether/agent.toml"


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


def run_daemon(config: Path) -> int:
    """`agent run`, in the foreground, until SIGTERM or SIGINT."""
    # PyMySQL loads cryptography (10 MB) where it is installed, for a login that MariaDB does not have. Kept out of this
    # process only, and only until something else has asked for it.
    sys.modules.setdefault("cryptography", None)  # type: ignore[arg-type]

    from agent.service import serve
    from shared.errors import BellwetherError

    try:
        serve(config)
    except BellwetherError as error:
        print(f"agent run: {error.detail}", file=sys.stderr)  # noqa: T201 - a command's one line
        return 1
    return 0
