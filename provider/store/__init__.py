"""This node's durable copy of the state. Only this package imports SQLAlchemy and alembic. See DESIGN.md beside it."""

from provider.store.address import split_password, with_password
from provider.store.aside import set_store_aside
from provider.store.errors import HistoryDamaged, StoreAhead, StoreCorrupt, StoreEmptied, StoreTooNew, StoreUnavailable
from provider.store.past import HistoryRow
from provider.store.store import Store

__all__ = [
    "HistoryDamaged",
    "HistoryRow",
    "Store",
    "StoreAhead",
    "StoreCorrupt",
    "StoreEmptied",
    "StoreTooNew",
    "StoreUnavailable",
    "set_store_aside",
    "split_password",
    "with_password",
]
