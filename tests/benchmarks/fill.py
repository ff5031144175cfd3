"""Fills a provider's store, while the provider is down, with so many more documents: `fill.py STORE_URL COUNT`.

Only of a cluster that has this one node: the others would not have them. Needs the provider's own packages only, so
it can be run on a host as well.
"""

import sys
from contextlib import closing

from provider.core.documents import Document
from provider.core.state import State
from provider.store import Store

TEXT = "x" * 200


def filled(state: State, count: int) -> State:
    """The state with `count` more settings, each as large as those that the other benchmarks write."""
    more = [
        Document("setting", f"user.fill.{number:06}", 1, 1, state.now, state.now, {"value": {"text": TEXT}}, {})
        for number in range(count)
    ]
    return State.restored(
        generation=state.generation,
        epoch=state.epoch,
        primary=state.primary,
        revision=state.revision,
        now=state.now,
        next_key=state.next_key,
        documents=[*(one for kind in state.documents.values() for one in kind.values()), *more],
        keys=state.keys.values(),
    )


def fill(store_url: str, count: int) -> None:
    with closing(Store(store_url)) as store:
        state, position = store.load()
        store.seed(filled(state, count), position)


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))
