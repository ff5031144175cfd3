"""`provider run`: from what is on this host to a running node."""

import asyncio
import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import uvloop

from provider.address import followed
from provider.core.state import State
from provider.core.vouching import Word
from provider.daemon import Node
from provider.hostfiles import check_private, locked, store_address
from provider.log.port import Position
from provider.recovery.bygone import want_history
from provider.recovery.known import known_members
from provider.recovery.members import HttpMembers, Members
from provider.recovery.recovery import donor
from provider.settings import Files, ProviderSettings
from provider.store import Store, StoreAhead, StoreCorrupt, StoreTooNew, set_store_aside, split_password
from shared.errors import Refused, Unavailable
from shared.logs import log

SWITCH_S = 0.0005
"""How long one thread may keep the others waiting. Python's 5 ms would be most of a commit's time."""
REBUILD_S = 60.0
"""How long a node that has lost its store waits for another one that can give it the state."""
AGAIN_S = 1.0


def run(settings: ProviderSettings, files: Files) -> None:
    """Runs until SIGTERM or SIGINT. Raises a `BellwetherError` where it cannot start, or cannot go on."""
    check_private(settings, files)
    with locked(settings.data_dir):
        # What is loaded stays, and nothing of it is garbage: to look for some on the way, and once more at the end,
        # took as long as half the loading. Not to look at it later keeps the collector's pauses short.
        gc.collect()
        gc.disable()
        store, loaded = opened(store_address(settings, files), settings, HttpMembers(files))
        sys.setswitchinterval(SWITCH_S)
        node = Node(followed(settings, files, loaded[0]), files, store, loaded)
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 20, 50)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(node.serve())


def opened(
    url: str, settings: ProviderSettings, members: Members, patience_s: float = REBUILD_S
) -> tuple[Store, tuple[State, Position | None]]:
    """The store and what is in it. One that is torn is never served: it is set aside, and made anew from another
    member's state. Raises `StoreCorrupt`, `Refused` where nobody can give one; any other `BellwetherError`."""
    known = known_members(settings.data_dir)
    others = {} if known is None else {name: at for name, at in known.urls.items() if name != settings.name}
    store = Store(url)
    torn: StoreCorrupt | None = None
    try:
        store.migrate()
        if (why := store.forgets()) is not None:
            log(why=why).warning("the store's database may lose with its power what it has confirmed")
        if store.exists():
            return store, store.load()
    except StoreTooNew:
        raise
    except StoreCorrupt as error:
        torn = error
    if torn is not None and not others:
        store.close()
        raise StoreCorrupt(f"{torn.detail}. No other member is known: restore a backup (docs/RECOVERY.md)") from None
    if known is None or not others:
        shown, _ = split_password(settings.store_url)
        raise Refused(f"{shown} holds no state; `provider init` or `provider join` makes it")
    want_history(settings.data_dir)
    return _rebuilt(store, url, torn, _Donors(known.cluster, others, members, patience_s))


@dataclass(frozen=True, slots=True)
class _Donors:
    """The other members, of which one is to give its state."""

    cluster: str
    urls: Mapping[str, str]
    members: Members
    patience_s: float

    def given(self) -> tuple[str, State, Position | None]:
        """The name of one, and its state. Raises `Refused` where none of them can give any in time."""
        until_s = time.monotonic() + self.patience_s
        nothing = Word("", epoch=0, revision=0)
        while True:
            name = donor(nothing, self.cluster, self.members.standings(self.urls))
            try:
                if name is not None:
                    return name, *self.members.snapshot(self.urls[name])
                why = f"none of {', '.join(self.urls)} follows the log and answers"
            except (Unavailable, OSError) as error:
                why = f"{name}: {error}"
            if time.monotonic() > until_s:
                raise Refused(
                    f"this node has no state, and no other could give it one ({why}): start another member first; if "
                    "none of them has any left, restore a backup (docs/RECOVERY.md)"
                )
            log(why=why).warning("waiting for a member that can give this node its state")
            time.sleep(AGAIN_S)


def _rebuilt(
    store: Store, url: str, torn: StoreCorrupt | None, donors: _Donors
) -> tuple[Store, tuple[State, Position | None]]:
    """With the state of another member, which is here before anything of the old store is touched: others may share it,
    and have in memory what it has lost."""
    try:
        name, state, position = donors.given()
        if torn is not None:
            store.close()
            kept = set_store_aside(url)
            log(why=torn.detail, kept=kept).critical(
                "the store is torn: it is set aside, and made anew from another node"
            )
            store = Store(url)
            store.migrate()
        try:
            store.seed(state, position, over=(0, 0))
            log(member=name, revision=state.revision).warning("this node begins with the state of another member")
        except StoreAhead as error:
            log(why=error.detail).warning("this node begins with what others have stored meanwhile")
        return store, store.load()
    except BaseException:
        store.close()
        raise
