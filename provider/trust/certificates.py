"""Keeps this node's files of trust as the state wants them: the authorities in `ca.pem`, its own certificate.

One thread, which looks when authorities change, and now and then. A new certificate is for the same key, so that one
file is replaced, atomically: whoever reads the pair, the broker too, finds two that belong together.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from provider.core.state import State
from provider.settings import Files
from provider.trust import pki
from provider.trust.authorities import bundle, waiting, why_renew
from provider.trust.membership import certificate_days
from shared.backoff import Backoff
from shared.errors import BellwetherError
from shared.files import write_atomically
from shared.logs import log
from shared.tls import certificates_in, trust_of

LOOK_S = 600.0
"""How often although nothing has happened. A certificate that lives for less is looked at more often."""
LOOKS_A_LIFE = 30
LONELY_S = 5.0
WAITING_S = 1.0
"""While others are waited for to trust a new authority."""
SHORTEST_S = 1.0
STOP_S = 5.0


class Certificates:
    """`renew(csr, news)` has a certificate signed by the primary (PEM; raises a `BellwetherError`), and tells it what
    `news(state)` has found to be new about this node. `reload` is told when a file has been replaced; `expelled` finds
    out, where the broker refuses this node or is not there for long (not `connected()`), whether it was removed. On a
    primary, `sign_with(id)` is asked for as soon as nobody is left in `untrusting(state)`. All are called on this
    thread.

    Until `current()`, which says that the log has been read to its end, what else stands in `ca.pem` stays: where the
    authority was replaced while this node was away, a person has put the new one there, and without it the log could
    not be read."""

    def __init__(
        self,
        *,
        node: str,
        files: Files,
        state: Callable[[], State],
        renew: Callable[[str, dict[str, Any]], str],
        reload: Callable[[], None],
        expelled: Callable[[], bool],
        untrusting: Callable[[State], list[str]],
        sign_with: Callable[[str], object],
        current: Callable[[], bool],
        connected: Callable[[], bool] = lambda: True,
        news: Callable[[State], dict[str, Any]] = lambda _: {},
    ) -> None:
        self._node, self._files = node, files
        self._state, self._renew, self._reload = state, renew, reload
        self._expelled, self._untrusting, self._sign_with = expelled, untrusting, sign_with
        self._current, self._connected, self._news = current, connected, news
        self._ask_at_s = time.monotonic() + LONELY_S
        """When others are to be asked whether this node is still one of them."""
        self._refused = False
        self._unloaded = False
        """A file was replaced and `reload` has not come to its end since: it is called again, whatever it failed at."""
        self.trust = trust_of(files.ca.read_text(encoding="utf-8", errors="replace"))
        """Short name of the authorities that this node trusts: all that connects from now on does."""
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(STOP_S)

    def look_again(self) -> None:
        """Authorities or certificates have changed. Any thread."""
        self._wake.set()

    def refused(self) -> None:
        """The broker does not let this node in. Any thread."""
        self._refused = True
        self._wake.set()

    def write_bundle(self) -> bool:
        """Brings `ca.pem` up to date; whether it was not. Raises `OSError`."""
        wanted = bundle(self._state())
        if wanted and not self._current():
            wanted = _with_others(wanted, self._files.ca.read_text(encoding="utf-8", errors="replace"))
        # Whatever a person has made of the file, comments with umlauts too, is read and replaced.
        if not wanted or self._files.ca.read_text(encoding="utf-8", errors="replace") == wanted:
            return False
        write_atomically(self._files.ca, wanted, mode=0o644)
        log(authorities=len(self._state().of("authority"))).info("the trusted authorities have changed")
        return True

    def _run(self) -> None:
        backoff, wait_s = Backoff(first_s=0.5, longest_s=30.0), 0.0
        while True:
            self._wake.wait(wait_s)
            if self._stopping:
                return
            self._wake.clear()
            try:
                wait_s = self._look()
                backoff.reset()
            except (BellwetherError, OSError) as error:
                wait_s = backoff.next_s()
                why = error.detail if isinstance(error, BellwetherError) else str(error)
                log(why=why).warning("this node's certificate could not be brought up to date; trying again")

    def _look(self) -> float:
        """Seconds until the next look."""
        refused, self._refused = self._refused, False
        if self._state().get("node", self._node) is None or ((refused or self._lonely()) and self._expelled()):
            return LOOK_S
        if self.write_bundle():
            self._unloaded = True
        self._load()
        self.trust = trust_of(self._files.ca.read_text(encoding="utf-8", errors="replace"))
        next_s = self._advance() if self._current() else WAITING_S
        state, pem = self._state(), self._files.certificate.read_text(encoding="ascii")
        days, certificate = certificate_days(state), pki.read_certificate(pem)
        days_left = certificate.days_left(datetime.now(UTC))
        # News is believed of who shows a certificate: one that has expired is renewed first. And it is told once: a
        # node that has not read the log to its end may have told it before.
        news = self._news(state) if days_left > 0 and self._current() else {}
        why = f"new about this node: {', '.join(news)}" if news else why_renew(state, certificate, days, days_left)
        if why is not None:
            csr = pki.new_request(self._files.key.read_text(encoding="ascii"), self._node)
            write_atomically(self._files.certificate, self._renew(csr, news), mode=0o644)
            self._unloaded = True
            log(why=why).info("this node's certificate was renewed")
            self._load()
        return max(SHORTEST_S, min(next_s, days * 86_400 / LOOKS_A_LIFE))

    def _lonely(self) -> bool:
        """Whether the log has been out of reach for long, and others have not been asked about it for as long. The
        broker of a node that was removed has lost the others, and tells it nothing."""
        now_s = time.monotonic()
        if self._connected():
            self._ask_at_s = now_s + LONELY_S
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + LONELY_S
        return True

    def _load(self) -> None:
        if self._unloaded:
            self._reload()
            self._unloaded = False

    def _advance(self) -> float:
        """Has a new authority sign once everybody trusts it. Seconds until the next look."""
        state = self._state()
        if state.primary != self._node or (new := waiting(state)) is None:
            return LOOK_S
        if not self._untrusting(state):
            self._sign_with(new.id)
        return WAITING_S


def _with_others(wanted: str, found: str) -> str:
    """The authorities in `wanted`, and those in `found` that are not among them."""
    return wanted + "".join(one for one in certificates_in(found) if one not in wanted)
