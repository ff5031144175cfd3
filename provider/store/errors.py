"""What the store says when it cannot do what it was asked; the rest is `shared.errors.DiskFull`."""

from shared.errors import BellwetherError, Unavailable


class StoreUnavailable(Unavailable):
    """The store's database cannot be reached, or something holds it locked. The same call may succeed later."""

    code = "store_unavailable"


class StoreCorrupt(BellwetherError):
    """What the store holds is not what was written, or was not written by us. Only another copy can help: join anew."""

    code = "store_corrupt"


class StoreTooNew(StoreCorrupt):
    """The store was written by a newer version of the program, which this one would damage."""

    code = "store_too_new"
