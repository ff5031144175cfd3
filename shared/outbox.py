"""What was published and is not settled yet: every message gets exactly one outcome, by its deadline.

Pure bookkeeping for one connection that comes and goes; time is an argument (monotonic seconds). `put` may be called
from any thread, everything else from the link's thread only.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

from shared.bus import Outcome
from shared.logs import log

OnDone = Callable[[Outcome], None]


class Message:
    """One publish. Compared by identity; settled once."""

    __slots__ = ("body", "deadline_s", "exchange", "key", "lasting", "on_done", "returned", "settled", "tag")

    def __init__(
        self, exchange: str, key: str, body: bytes, on_done: OnDone | None, deadline_s: float, *, lasting: bool = True
    ) -> None:
        self.lasting = lasting
        self.exchange, self.key, self.body = exchange, key, body
        self.on_done = on_done
        self.deadline_s = deadline_s
        self.tag = 0  # the channel's, once it was sent
        self.returned = False
        self.settled = False

    def settle(self, outcome: Outcome) -> None:
        """Tell the outcome, unless one was told before."""
        if self.settled:
            return
        self.settled, self.body = True, b""  # the heap of deadlines may hold it for longer
        if self.on_done is not None:
            try:
                self.on_done(outcome)
            except Exception:  # noqa: BLE001 - the caller's bug must not take the outcomes of others with it
                log().opt(exception=True).error("a callback for a published message failed")


class Outbox:
    """At most `limit` messages are unsettled; more are refused at once, so that memory has a bound."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._put: deque[Message] = deque()
        self._waiting: deque[Message] = deque()
        self._sent: dict[int, Message] = {}  # by delivery tag, which only grows
        self._deadlines: list[tuple[float, int, Message]] = []
        self._order = count()

    def put(self, message: Message) -> None:
        """Any thread. `take` sees it afterwards."""
        self._put.append(message)

    def accept(self) -> None:
        """Begin to watch over what was put."""
        while self._put:
            message = self._put.popleft()
            if len(self._waiting) + len(self._sent) >= self._limit:
                message.settle(Outcome.UNKNOWN)
                continue
            self._waiting.append(message)
            heapq.heappush(self._deadlines, (message.deadline_s, next(self._order), message))

    def take(self, now_s: float) -> Iterator[Message]:
        """What can be sent now, in order; too late ones are left out (`expire` tells their outcome)."""
        while self._waiting:
            message = self._waiting.popleft()
            if not message.settled and message.deadline_s > now_s:
                yield message

    def sent(self, tag: int, message: Message) -> None:
        """`message` is on its way under the channel's delivery tag `tag`."""
        message.tag = tag
        self._sent[tag] = message

    def returned(self, tag: int) -> None:
        """The broker found no queue for it; its confirm follows."""
        message = self._sent.get(tag)
        if message is not None:
            message.returned = True

    def confirm(self, tag: int, *, multiple: bool, outcome: Outcome) -> None:
        """The broker has judged `tag`, and with `multiple` all before it."""
        if multiple:
            tags = []
            for sent in self._sent:
                if sent > tag:
                    break
                tags.append(sent)
        else:
            tags = [tag]
        for each in tags:
            message = self._sent.pop(each, None)
            if message is not None:
                message.settle(Outcome.UNROUTABLE if message.returned and outcome.ok else outcome)

    def lose(self) -> None:
        """The connection is gone: what was sent has an unknown outcome; what was not, and lasts, waits for the next."""
        sent, self._sent = self._sent, {}
        for message in sent.values():
            message.settle(Outcome.UNKNOWN)
        self.accept()
        self.lapse()

    def lapse(self) -> None:
        """There is no connection: nothing waits but what lasts."""
        waiting, self._waiting = self._waiting, deque()
        for message in waiting:
            if message.lasting:
                self._waiting.append(message)
            else:
                message.settle(Outcome.UNKNOWN)

    def expire(self, now_s: float) -> float | None:
        """Settle what is too late. Returns the next deadline, if any."""
        while self._deadlines:
            deadline_s, _, message = self._deadlines[0]
            if not message.settled:
                if deadline_s > now_s:
                    break
                self._sent.pop(message.tag, None)
                message.settle(Outcome.UNKNOWN)
            heapq.heappop(self._deadlines)
        while self._waiting and self._waiting[0].settled:  # they count against the limit no longer
            self._waiting.popleft()
        return self._deadlines[0][0] if self._deadlines else None

    def abandon(self) -> None:
        """Settle everything: nothing will be sent any more. Any thread, once the link's own has ended."""
        self.lose()
        for messages in (self._waiting, self._put):
            while True:
                try:
                    message = messages.popleft()
                except IndexError:  # empty, or another thread was faster
                    break
                message.settle(Outcome.UNKNOWN)
