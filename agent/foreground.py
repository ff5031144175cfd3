"""`agent run`: what both ways to it share, the short one and typer's. Loads nothing but what the daemon needs."""

import sys
from pathlib import Path

DEFAULT_CONFIG = "/etc/bellwether/agent.toml"


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
