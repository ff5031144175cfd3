"""What backups are called, and which of them is newer. Pure.

Their names are `bellwether-<cluster>-<time, UTC>-r<revision>.backup`. Which of a cluster's is newer is told by the
revision, which never goes back, also not over a restore (`provider.core.anew`); the time is for people: it is the
maker's clock, and that may have been wrong.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from provider.backup.container import Head
from shared.errors import Refused

NAME = re.compile(r"bellwether-([0-9a-f-]{1,36})-(\d{8}T\d{6}Z)-r(\d+)\.backup")


def name_of(head: Head) -> str:
    at = datetime.fromtimestamp(head.at / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"bellwether-{_short(head.cluster)}-{at}-r{head.revision}.backup"


def _short(cluster: str) -> str:
    return cluster[:8] if re.fullmatch(r"[0-9a-f-]{8,}", cluster) else "0"


def outlived(names: Sequence[str], made: str, keep: int) -> list[str]:
    """Those of `names` that go once `made` is there, which is one of them: all backups of the same cluster but the
    newest `keep`."""
    known = NAME.fullmatch(made)
    cluster = known[1] if known else ""
    ours = by_age(name for name in names if (found := NAME.fullmatch(name)) and found[1] == cluster)
    return [name for name in ours[: max(0, len(ours) - max(1, keep))] if name != made]


def by_age(names: Iterable[str]) -> list[str]:
    """Those that are names of backups, each cluster's together, the oldest of it first."""
    found = ((known[1], int(known[3]), known[2], name) for name in names if (known := NAME.fullmatch(name)))
    return [name for *_, name in sorted(found)]


def newest(names: Sequence[str]) -> str | None:
    """The one with the highest revision. Raises `Refused` where backups of several clusters are among them: these
    cannot be compared."""
    found = by_age(names)
    clusters = sorted({known[1] for name in found if (known := NAME.fullmatch(name))})
    if len(clusters) > 1:
        raise Refused(f"backups of {len(clusters)} clusters lie there ({', '.join(clusters)}): name the file")
    return found[-1] if found else None
