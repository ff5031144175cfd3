"""What pydantic found, in one line for people."""

from pydantic import ValidationError

_MOST = 3
_PLAIN = {"extra_forbidden": "is not known", "missing": "is missing"}


def problems(error: ValidationError) -> str:
    """Where, and what; at most three of them, what is not known first: it may be what another one misses, misspelt.
    Values are not repeated, they may be secrets."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    found.sort(key=lambda one: one["type"] != "extra_forbidden")
    lines = []
    for one in found[:_MOST]:
        where = ".".join(str(part) for part in one["loc"])
        what = _PLAIN.get(one["type"], one["msg"].removeprefix("Value error, "))
        lines.append(f"{where}: {what}" if where else what)
    more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return "; ".join([*lines, *more])
