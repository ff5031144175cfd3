"""What a restored cluster finds on its servers, for a person to decide on. Pure: from the state and what agents say.

held        a wish from the backup; `message` says in what the server differs (or that its agent is not heard)
unmanaged   a database or account that is on a server and in no wish: made since the backup, or by hand before
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from provider.core import commands as c
from provider.core import documents as d
from provider.core.state import State
from provider.fleet.view import View
from shared import messages as m
from shared.errors import Refused


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be decided on."""

    instance: str
    kind: c.WishKind
    name: str
    state: str
    """`held` or `unmanaged`."""
    message: str | None
    found: Mapping[str, Any] | None
    """What the server has of that name, as a wish would say it; None: nothing, or it is not known."""
    adoptable: bool
    """Whether a wish can say what the server has."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.instance}/{self.name}"

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.key,
            "instance": self.instance,
            "kind": self.kind,
            "name": self.name,
            "state": self.state,
            "message": self.message,
            "found": dict(self.found) if self.found is not None else None,
            "adoptable": self.adoptable,
        }


def review(state: State, view: View, instance: str | None = None) -> list[Item]:
    """All there is to decide on, or that of one instance; sorted. What was ignored is left out."""
    known = c.restored(state)
    ignored = set(known["ignored"]) if known is not None else set()
    found: list[Item] = []
    for document in state.of("instance"):
        if instance is None or document.id == instance:
            found += (item for item in of_instance(state, view, document) if item.key not in ignored)
    return sorted(found, key=lambda item: item.key)


def of_instance(state: State, view: View, instance: d.Document) -> Iterator[Item]:
    """Of one instance, in no order."""
    observed = _observed(view, instance)
    databases = {one.name: _database(one) for one in observed.databases} if observed is not None else {}
    accounts = _accounts(observed) if observed is not None else {}
    kinds: tuple[tuple[c.WishKind, Mapping[str, Sequence[d.Content]]], ...] = (
        ("database", {name: [spec] for name, spec in databases.items()}),
        ("account", accounts),
    )
    for kind, there in kinds:
        wishes = {wish.name: wish for wish in state.within(kind, instance.id)}
        for name, wish in wishes.items():
            if wish.status["phase"] == "held":
                yield _held(instance.id, kind, wish, there.get(name, ()), heard=observed is not None)
        for name in there.keys() - wishes.keys():
            yield _unmanaged(instance.id, kind, name, there[name])


def unmanaged(state: State, view: View, instance: d.Document) -> dict[str, list[str]]:
    """Names of what is on an instance's server and in no wish."""
    found = [item for item in of_instance(state, view, instance) if item.state == "unmanaged"]
    return {
        "databases": sorted(item.name for item in found if item.kind == "database"),
        "accounts": sorted(item.name for item in found if item.kind == "account"),
    }


def to_adopt(
    state: State, view: View, instance: str, names: Mapping[c.WishKind, Sequence[str]] | None
) -> list[c.Adopted]:
    """What is to be adopted of these, or of all that can be. Raises `Refused` for a name that cannot."""
    items = {(item.kind, item.name): item for item in review(state, view, instance)}
    if names is None:
        return [_adopted(item) for item in items.values() if item.adoptable][: c.ADOPTED_MAX]
    chosen = []
    for kind, all_ in names.items():
        for name in all_:
            item = items.get((kind, name))
            if item is None:
                raise Refused(f"{kind} {name!r} of {instance} is neither held nor unmanaged: nothing is to be decided")
            if not item.adoptable:
                raise Refused(f"{kind} {name!r} of {instance} cannot be adopted: {item.message}")
            chosen.append(_adopted(item))
    return chosen


def _adopted(item: Item) -> c.Adopted:
    if item.found is None:
        return c.Adopted(item.kind, item.name, None)
    spec = d.DatabaseSpec if item.kind == "database" else d.AccountSpec
    return c.Adopted(item.kind, item.name, spec.model_validate(item.found))


def _held(instance: str, kind: c.WishKind, wish: d.Document, there: Sequence[d.Content], *, heard: bool) -> Item:
    message = wish.status.get("message")
    if not heard:
        return Item(instance, kind, wish.name, "held", "its agent is not heard, or the server is down", None, False)
    if not there:
        return Item(instance, kind, wish.name, "held", message, None, True)
    host = wish.spec.get("host", "").lower()
    same = [one for one in there if isinstance(one, d.AccountSpec) and one.host == host]
    found: d.Content = same[0] if same else there[0]
    several = len(there) > 1 and not same
    return Item(instance, kind, wish.name, "held", message, _said(found), not several)


def _unmanaged(instance: str, kind: c.WishKind, name: str, there: Sequence[d.Content]) -> Item:
    problem = _unfit(kind, name)
    if len(there) > 1:
        hosts = ", ".join(one.host for one in there if isinstance(one, d.AccountSpec))
        problem = f"it is there at several hosts ({hosts}), a wish is for one: PUT the one that is meant"
    return Item(instance, kind, name, "unmanaged", problem, _said(there[0]), problem is None)


def _unfit(kind: c.WishKind, name: str) -> str | None:
    try:
        c.check_name(kind, name, d.DatabaseName if kind == "database" else d.AccountName)
    except Exception as error:  # noqa: BLE001 - whatever a server's names are
        return str(error)
    return None


def _said(spec: d.Content) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True)


def _observed(view: View, instance: d.Document) -> m.ObservedInstance | None:
    seen = view.agents.get(instance.spec["agent"])
    observed = seen.instances.get(instance.id) if seen is not None else None
    return observed if observed is not None and observed.state == "up" else None


def _database(one: m.ObservedDatabase) -> d.DatabaseSpec:
    return d.DatabaseSpec(charset=_word(one.charset), collation=_word(one.collation))


def _word(text: str) -> str | None:
    return text if text.replace("_", "").isalnum() and text.isascii() and len(text) <= 64 else None


def _accounts(observed: m.ObservedInstance) -> dict[str, list[d.Content]]:
    found: dict[str, list[d.Content]] = {}
    for one in observed.accounts:
        if not one.reserved:
            found.setdefault(one.name, []).append(_account(one))
    return found


def _account(one: m.ObservedAccount) -> d.AccountSpec:
    """As far as a wish can say it. What it leaves out, its agent sees: then the wish stays held, and says why."""
    grants = []
    for grant in one.grants:
        try:
            grants.append(d.GrantSpec(database=grant.database, privileges=grant.privileges))
        except ValidationError:
            continue
    try:
        return d.AccountSpec(host=one.host, grants=tuple(grants))
    except ValidationError:  # a host in a form that no wish has
        return d.AccountSpec(grants=tuple(grants))
