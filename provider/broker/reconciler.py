"""Keeps the broker's users as the state wants them. The broker is disposable, so nothing about it is remembered: what
it has is compared with what the state says, and only the difference is mended.

The primary sees to everybody. Every other node sees to its own user alone, and only when it is refused: a broker that
was wiped while the primary was gone must not lock out those who could take over.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote

from provider.broker import users as u
from provider.broker.management import Management, ManagementError
from provider.core.state import State
from shared.backoff import Backoff
from shared.logs import log

SWEEP_S = 30.0
"""How often all users are compared although nothing has happened."""
SWEEP_SHARE = 20
"""... and this many times as long as a sweep takes: a large fleet is compared less often."""
BATCH = 200
"""Users in one call: a third of a second of the broker's time. Whoever is waited for comes between two batches."""
NAMED_MAX = 100
"""More than these at once are found faster by comparing all."""
RETRY_S = 0.5
CUT_AGAIN_S = (0.5, 2.0, 8.0)
"""After a user was deleted, connections under its name are closed again: one may have been about to open. The broker
grants it nothing, but shut out means closed."""
STOP_S = 5.0


class BrokerUsers:
    """One thread. Public methods may be called from any other, and do not wait but for `wait_ready`."""

    def __init__(
        self,
        *,
        node: str,
        vhost: str,
        management: Management,
        state: Callable[[], State],
        suspended: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`suspended()` are users that are kept off the broker for a time, though the state knows them."""
        self._node, self._vhost, self._management = node, vhost, management
        self._state, self._suspended = state, suspended
        self._news = threading.Condition()
        self._named: dict[str, None] = {}
        self._sweep_at_s = 0.0
        self._refused = False
        self._exchanges = False
        """Those that permissions are for are there. A broker that was away may have come back without."""
        self._stopping = False
        self._ready: dict[str, str] = {}
        """Password hashes that the broker has, by user."""
        self._cut: list[tuple[float, str]] = []
        self._said: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._run, name="broker-users", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(STOP_S)

    def look_again(self, names: Iterable[str] | None = None) -> None:
        """These users may have to change; None: any may."""
        with self._news:
            if names is None:
                self._sweep_at_s, self._exchanges = 0.0, False
            else:
                self._named.update(dict.fromkeys(names))
            self._news.notify_all()

    def refused(self) -> None:
        """The broker does not let this node in."""
        with self._news:
            self._refused, self._exchanges = True, False
            self._news.notify_all()

    def wait_ready(self, user: str, timeout_s: float) -> bool:
        """Waits until the broker has this user as the state wants it. Blocking."""
        with self._news:
            return self._news.wait_for(lambda: self._is_ready(user), timeout_s)

    def has(self, user: str, password_hash: str) -> bool:
        """Whether the broker has this user with this password, as far as is known."""
        return self._ready.get(user) == password_hash

    def _is_ready(self, user: str) -> bool:
        wanted = u.wanted_user(self._state(), user)
        return wanted is not None and self.has(user, wanted.password_hash)

    # ── the thread ──

    def _run(self) -> None:
        backoff = Backoff(first_s=RETRY_S, longest_s=SWEEP_S)
        pause_until_s = 0.0
        while True:
            self._wait(pause_until_s)
            if self._stopping:
                self._management.close()
                return
            try:
                self._work()
                backoff.reset()
                pause_until_s = 0.0
            except ManagementError as error:
                self._sweep_at_s = 0.0
                pause_until_s = time.monotonic() + backoff.next_s()
                log(why=str(error)).warning("the broker's users could not be brought up to date; trying again")

    def _wait(self, pause_until_s: float) -> None:
        """Until something is to be done. After a failure, until then; but a new name is tried at once."""
        with self._news:
            while not self._stopping:
                now_s = time.monotonic()
                due_s = max(pause_until_s, min([self._sweep_at_s, *(at_s for at_s, _ in self._cut)]))
                if self._named or (self._refused and now_s >= pause_until_s) or now_s >= due_s:
                    return
                self._news.wait(max(0.0, (pause_until_s if self._refused else due_s) - now_s))

    def _work(self) -> None:
        if not self._leads:
            self._standby()
            return
        if self._refused:  # everybody's may be gone; ours first
            self._mend_vhost()
            self._mend([u.node_user(self._node)])
            self._refused, self._sweep_at_s = False, 0.0
        self._see_to_named()
        self._cut_again()
        began_s = time.monotonic()
        if began_s >= self._sweep_at_s:
            # Moved on before the broker is read: who asks while this runs is heard afterwards.
            self._sweep_at_s = next_s = began_s + SWEEP_S
            self._sweep()
            took_s = time.monotonic() - began_s
            with self._news:
                if self._sweep_at_s == next_s:
                    self._sweep_at_s = next_s + SWEEP_SHARE * took_s

    @property
    def _leads(self) -> bool:
        return self._state().primary == self._node

    def _standby(self) -> None:
        with self._news:
            self._named.clear()
            self._cut.clear()
            self._ready = {}
            self._sweep_at_s = time.monotonic() + SWEEP_S  # or when told, as with each claim
            refused, self._refused = self._refused, False
        own = u.node_user(self._node)
        if not refused or u.wanted_user(self._state(), own) is None:
            return
        try:
            self._mend_vhost()
            self._mend([own])
        except ManagementError:
            self._refused = True
            raise

    # ── some users ──

    def _see_to_named(self) -> None:
        with self._news:
            named, self._named = list(self._named), {}
        if len(named) > NAMED_MAX:
            self._sweep_at_s = 0.0
        elif named:
            self._mend(named)

    def _mend(self, names: Sequence[str]) -> None:
        """Put or delete these users, whatever the broker has."""
        state, suspended = self._state(), set(self._suspended())
        wanted: list[u.BrokerUser] = []
        for name in names:
            tags = self._tags_of(name)
            user = u.wanted_user(state, name) if name not in suspended else None
            if tags is not None and not tags & u.TAGS:
                if user is not None:
                    self._say_foreign((name,))
            elif user is not None:
                wanted.append(user)
            elif tags is not None:
                self._delete([name])
        self._put(wanted)

    def _tags_of(self, name: str) -> set[str] | None:
        """The tags of a user on the broker; None where there is none."""
        try:
            found = self._management.call("GET", f"/users/{quote(name, safe='')}")
            tags = found["tags"]
        except ManagementError as error:
            if error.status == 404:
                return None
            raise
        except (KeyError, TypeError):
            raise ManagementError("an answer that is not RabbitMQ's: is this its address?") from None
        return set(tags if isinstance(tags, list) else str(tags).split(","))

    # ── all users ──

    def _sweep(self) -> None:
        self._mend_vhost()
        call = self._management.call
        try:
            found = u.found_users(
                self._vhost,
                call("GET", "/users?columns=name,password_hash,tags,limits"),
                call("GET", "/permissions"),
                call("GET", "/topic-permissions"),
            )
        except ValueError as error:
            raise ManagementError(str(error)) from None
        wanted = u.wanted_users(self._state(), self._suspended())
        todo = u.difference(wanted, found)
        self._say_foreign(todo.foreign)
        put = {user.name for user in todo.put}
        with self._news:
            named = set(self._named)
            # Whoever was changed or deleted since then is in `_named`, or will be.
            self._ready = {
                name: user.password_hash for name, user in found.ours.items() if name not in put and name in wanted
            } | {name: hashed for name, hashed in self._ready.items() if name in named}
            self._news.notify_all()
        for batch in _batches(todo.delete):
            if not self._between():
                return
            unwanted = u.wanted_users(self._state(), self._suspended()).keys()
            self._delete([name for name in batch if name not in unwanted or name in put])
        for batch in _batches([user.name for user in todo.put]):
            if not self._between():
                return
            state, suspended = self._state(), set(self._suspended())
            now_wanted = (u.wanted_user(state, name) for name in batch if name not in suspended)
            self._put([user for user in now_wanted if user is not None])

    def _between(self) -> bool:
        """Before each batch of a sweep, which may take a minute: those who are waited for. Whether to go on."""
        if self._stopping or not self._leads:
            return False
        self._see_to_named()
        return True

    def _mend_vhost(self) -> None:
        path = f"/vhosts/{quote(self._vhost, safe='')}"
        try:
            self._management.call("GET", f"{path}?columns=name")
        except ManagementError as error:
            if error.status != 404:
                raise
            self._management.call("PUT", path, {})
            log(vhost=self._vhost).info("the broker had no such virtual host; it is made")

    # ── the broker ──

    def _put(self, users: Sequence[u.BrokerUser]) -> None:
        if not users:
            return
        if not self._exchanges and any(user.topics for user in users):
            self._management.call("POST", "/definitions", u.exchanges(self._vhost))
            self._exchanges = True
        self._management.call("POST", "/definitions", u.definitions(self._vhost, users))
        with self._news:
            for user in users:
                self._ready[user.name] = user.password_hash
            self._cut = [(at_s, name) for at_s, name in self._cut if name not in {user.name for user in users}]
            self._news.notify_all()
        log(users=len(users), first=users[0].name).info("broker users made or mended")

    def _delete(self, names: Sequence[str]) -> None:
        if not names:
            return
        with self._news:
            for name in names:
                self._ready.pop(name, None)
        try:
            # Deleting a user ends its connections too.
            self._management.call("POST", "/users/bulk-delete", {"users": list(names)})
        except ManagementError as error:
            if error.status != 400:
                raise
            for name in names:  # one of them is gone already: then it refuses the rest
                self._delete_one(name)
        now_s = time.monotonic()
        self._cut += [(now_s + after_s, name) for name in names for after_s in CUT_AGAIN_S]
        log(users=len(names), first=names[0]).info("broker users deleted")

    def _delete_one(self, name: str) -> None:
        try:
            self._management.call("DELETE", f"/users/{quote(name, safe='')}")
        except ManagementError as error:
            if error.status != 404:
                raise

    def _cut_again(self) -> None:
        now_s = time.monotonic()
        due = {name for at_s, name in self._cut if at_s <= now_s}
        self._cut = [(at_s, name) for at_s, name in self._cut if at_s > now_s]
        for name in sorted(due):
            try:
                self._management.call("DELETE", f"/connections/username/{quote(name, safe='')}")
            except ManagementError as error:
                if error.status not in (404, 405):  # not there: a RabbitMQ before 3.10
                    raise

    def _say_foreign(self, names: Sequence[str]) -> None:
        for name in sorted(set(names) - self._said):
            log(user=name).error("the broker has a user of this name that is not ours: it cannot connect")
        self._said |= set(names)


def _batches(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
