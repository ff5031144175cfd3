"""Whether this node hears the others that are alive. One thread.

Brokers that lost sight of each other for a moment forget the queues of each other's clients, and say nothing of it: the
connection stands, what is published is confirmed, and never comes. Only whoever listens can tell. So a member that is
not heard of is asked over HTTPS; if it answers, the deaf connection is made anew, which declares its queue again.
"""

import threading
from collections.abc import Callable, Sequence

from provider.core.state import State
from provider.fleet.view import View
from shared.backoff import Backoff

SILENT_S = 5.0
"""Five pulses of a node."""
LOOK_S = 1.0
AGAIN_S = 60.0
"""Most between two attempts, where making it anew did not help."""


def silent(state: State, view: View, node: str, mono_s: float, since_s: float) -> list[str]:
    """Members that were not heard of for `SILENT_S`, by name; `since_s` (monotonic) is since when we could hear."""
    found = []
    for document in state.of("node"):
        seen = view.nodes.get(document.id)
        heard_s = max(since_s, seen.mono_s if seen is not None else since_s)
        if document.id != node and mono_s - heard_s > SILENT_S:
            found.append(document.id)
    return found


class Hearing:
    """`missed()` names members that should have been heard of, `alive(name)` asks one (it may take seconds),
    `restart(why)` has the connection made anew."""

    def __init__(
        self, missed: Callable[[], Sequence[str]], alive: Callable[[str], bool], restart: Callable[[str], None]
    ) -> None:
        self._missed, self._alive, self._restart = missed, alive, restart
        self._stopping = threading.Event()
        self._backoff = Backoff(first_s=LOOK_S, longest_s=AGAIN_S)
        self._thread = threading.Thread(target=self._run, name="hearing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a member that is being asked."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._look()):
            pass

    def _look(self) -> float:
        """Seconds until the next look."""
        missed = self._missed()
        if not missed:
            self._backoff.reset()
            return LOOK_S
        for name in missed:
            if not self._stopping.is_set() and self._alive(name):
                self._restart(f"{name} is alive, and nothing is heard of it here; connecting anew")
                return SILENT_S + self._backoff.next_s()
        return SILENT_S
