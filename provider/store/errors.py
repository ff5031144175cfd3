"""What the store says when it cannot do what it was asked; the rest is `shared.errors.DiskFull`."""

from shared.errors import BellwetherError, Unavailable


class StoreUnavailable(Unavailable):
    """The store's database cannot be reached, or something holds it locked. The same call may succeed later."""

    code = "store_unavailable"


class StoreEmptied(StoreUnavailable):
    """Tables or rows that were there are gone, or are those of an older time: somebody dropped the database, emptied it
    or put a backup in its place. Whoever has the state in memory can write it back (`Store.write_back`)."""


class StoreCorrupt(BellwetherError):
    """What the store holds is not what was written, or was not written by us. Only another copy can help: join anew."""

    code = "store_corrupt"


class StoreTooNew(StoreCorrupt):
    """The store was written by a newer version of the program, which this one would damage."""

    code = "store_too_new"


class StoreAhead(Unavailable):
    """The store has more than what was to take its place: another node, which shares it, has written meanwhile."""

    code = "store_ahead"


class HistoryDamaged(StoreCorrupt):
    """A record of the history is not what was written. The state is: it has a digest of its own."""

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"revision {revision} in the history is not what was written: it is not shown. A node that has a store of "
            "its own takes the record from another member by itself; else docs/RECOVERY.md"
        )
        self.revision = revision
