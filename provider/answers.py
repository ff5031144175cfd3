"""What the engine has decided and not told yet: results wait until what they speak of is durable."""

from collections.abc import Callable

from provider.core.pending import Result, proven
from provider.core.replica import NotPrimary
from provider.core.state import State
from shared.errors import BellwetherError
from shared.logs import log


class Answers:
    """The engine's thread only."""

    def __init__(self, tell: Callable[[list[tuple[int, Result]]], None]) -> None:
        self._tell = tell
        self._waiting: list[tuple[int, Result]] = []

    def add(self, ticket: int, result: Result) -> None:
        if type(result) is BellwetherError and result.__cause__ is not None:
            log().opt(exception=result.__cause__).error("a request could not be planned: this is a bug")
        self._waiting.append((ticket, result))

    def replaced(self, state: State) -> None:
        """Another state was taken before what they speak of was durable: a success counts only where that has it."""
        self._waiting = [(ticket, proven(result, state)) for ticket, result in self._waiting]

    def tell(self) -> None:
        """All is durable, and shown."""
        if self._waiting:
            told, self._waiting = self._waiting, []
            self._tell(told)

    def tell_without_store(self) -> None:
        """While the store fails, successes may not be told. Errors may, and where else to go."""
        told = [pair for pair in self._waiting if _needs_no_store(pair[1])]
        if told:
            self._waiting = [pair for pair in self._waiting if not _needs_no_store(pair[1])]
            self._tell(told)


def _needs_no_store(result: Result) -> bool:
    return isinstance(result, BellwetherError | NotPrimary)
