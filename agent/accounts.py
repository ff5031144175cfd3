"""Which accounts this agent was told about, and at which host: kept in a file, so that a changed host part moves an
account also when the agent was restarted in between. Losing the file costs no more than that.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from shared.files import write_atomically
from shared.logs import log


def load_managed(file: Path) -> dict[str, str]:
    """Host by name; empty where the file is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log(file=file).warning("ignored: {}", error)
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: host for name, host in content.items() if isinstance(host, str)}


def save_managed(file: Path, managed: Mapping[str, str]) -> None:
    """Keep it. A failure is logged and harmless, see above."""
    try:
        write_atomically(file, json.dumps(managed, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        log(file=file).warning("not written: {}", error)
