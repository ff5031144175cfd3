"""A process that commits as fast as it can until it is killed: `python committing.py URL`.

Prints the revision of each commit once the store has said that it is durable.
"""

import sys

from provider.core.state import Accepted
from provider.store import Store
from tests.support import history


def main(url: str) -> None:
    store = Store(url)
    state, _ = store.load()
    while True:
        batch: list[Accepted] = []
        # Made from the revision alone: every process that goes on from here commits the same.
        for size in range(1 + state.revision % 3):
            revision = state.revision
            changes = [history.put(f"user.{(revision * 7 + n) % 50}", "x" * (revision % 700)) for n in range(1 + size)]
            commits = [history.commit_of(change, key=f"{revision}-{change.id}") for change in changes]
            batch.append(history.accept_entry(state, *commits))
            state = batch[-1].state
        store.commit(batch, history.position(state.revision))
        print(state.revision, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
