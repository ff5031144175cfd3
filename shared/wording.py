"""Words for people."""

from collections.abc import Sequence


def listed(names: Sequence[str]) -> str:
    """`p1`, `p1 and p2`, `p1, p2 and p3`; at least one."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def agreeing(names: Sequence[str], one: str, several: str) -> str:
    """The names, and the form of the verb that goes with so many: `p1 does`, `p1 and p2 do`."""
    return f"{listed(names)} {one if len(names) == 1 else several}"
