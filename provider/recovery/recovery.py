"""Asks the other members before this node writes what is new, and takes the state of one where it has lost the log.

One thread. What it decides is decided in `core.vouching` and in `donor`, which are pure.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from provider.backfill import fetch_record
from provider.core.commands import CLUSTER_ID, beginning, need
from provider.core.replica import OWN_WRITES, Ask
from provider.core.state import State
from provider.core.vouching import (
    CLAIM_PATIENCE_S,
    Finding,
    Question,
    Verdict,
    Word,
    beyond,
    counts_alone,
    judge,
    newer_log,
)
from provider.engine import Engine
from provider.fleet.view import View
from provider.recovery.aside import first_alone, set_aside
from provider.recovery.bygone import Bygone, want_history
from provider.recovery.known import Known, known_of, write_known
from provider.recovery.members import ANSWER_S, QUICK_S, Members, Standing
from provider.store import Store, StoreAhead, StoreEmptied
from shared.errors import BellwetherError, Invalid, Refused
from shared.logs import log

AGAIN_S = 0.25
"""Between two rounds of questions."""
HEAL_AGAIN_S = 2.0
LOOK_S = 2.0
"""How often it is looked whether this node misses something."""
STORE_AHEAD_S = 2.0
"""Where nodes share a database, the first of them stores what all are about to read. What this node still has not read
after so long, it will not."""
LONELY_S = 6.0
"""Without the log, before others are asked whether they have another one. An election of brokers is over by then."""
FORESEEN_ROUNDS = 3
FORGET_S = 900.0
"""A question about a promotion that nobody waits for any more."""


def donor(own: Word, cluster: str, standings: Mapping[str, Standing | None]) -> str | None:
    """Whose state to take: a member that follows the log, the primary first, then who has read furthest; one of a newer
    log before all others. None: nobody can give one."""
    fit = {
        name: one
        for name, one in standings.items()
        if one is not None and one.healthy and one.cluster == cluster and _same_or_newer(one.word, own)
    }
    return max(fit, key=lambda name: (fit[name].word.epoch, fit[name].primary, fit[name].word.revision), default=None)


def _same_or_newer(word: Word, own: Word) -> bool:
    return word.generation == own.generation or newer_log(word, own)


def _disowned(standings: Mapping[str, Standing | None]) -> str | None:
    """What a member says that went on without this node; None: nobody does."""
    return next((one.disowns for one in standings.values() if one is not None and one.disowns), None)


class Recovery:
    """`asked` and `lost` are called on the engine's thread, `start` and `stop` on any. `view()` is what was heard."""

    def __init__(
        self,
        *,
        node: str,
        engine: Engine,
        store: Store,
        data_dir: Path,
        members: Members,
        view: Callable[[], View],
        on_disowned: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_disowned(why)` is called on this thread where a member says that this node is none any more."""
        self._on_disowned = on_disowned
        self._node, self._engine, self._store, self._data_dir = node, engine, store, data_dir
        self._members, self._view = members, view
        self._news = threading.Condition()
        self._questions: dict[int, tuple[Ask, float]] = {}
        self._heals = self._stopping = False
        self._gaps_seen = 0
        self._behind: tuple[tuple[int, int], float] | None = None
        """What this node had reached when its store was first seen to be ahead of that, and when."""
        self._reached_s = time.monotonic()
        """When the log was last within reach."""
        self._noted: Known | None = None
        self._kept: Path | None = None
        """What was set aside for a takeover that is not done yet."""
        self._bygone = Bygone(store, data_dir, members)
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)
        engine.attach(on_ask=self.asked, on_lost=self.lost, on_foresee=self.foreseen)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(5.0)
        self._bygone.stop()

    def asked(self, ask: Ask) -> None:
        """The engine's `on_ask`."""
        with self._news:
            known = self._questions.get(ask.about)
            since_s = known[1] if known is not None else time.monotonic()
            self._questions[ask.about] = (ask, since_s)
            self._news.notify_all()

    def lost(self) -> None:
        """The engine's `on_lost`."""
        with self._news:
            self._heals = True
            self._news.notify_all()

    def _run(self) -> None:
        pause_s = LOOK_S
        while True:
            with self._news:
                if not self._stopping and not (pause_s == LOOK_S and (self._questions or self._heals)):
                    self._news.wait(pause_s)
                if self._stopping:
                    return
                questions = list(self._questions.values())
            if questions:
                self._answer(questions)
            self._listen_to_the_primary()
            self._look_at_store()
            if self._heals:
                self._heal()
            elif not questions:
                self._note_members()
                self._look_whether_all_is_back()
                self._look_for_gaps()
                self._look_for_another_log()
                self._look_for_history()
                self._mend_history()
            pause_s = AGAIN_S if self._questions else HEAL_AGAIN_S if self._heals else LOOK_S

    # ── before anything new is written ──

    def _answer(self, questions: list[tuple[Ask, float]]) -> None:
        first = any(time.monotonic() - since_s < QUICK_S for _, since_s in questions)
        standings = self._standings(QUICK_S if first else ANSWER_S)
        for ask, since_s in questions:
            if ask.about == OWN_WRITES and not self._engine.reading.course.replica.is_primary:
                self._drop(ask)  # deposed meanwhile
                continue
            waited_s = time.monotonic() - since_s
            finding = self._found(standings, waited_s, promotion=ask.about != OWN_WRITES, force=ask.force)
            self._engine.waits_for = finding.why or None
            if finding.verdict is Verdict.WAIT and waited_s < FORGET_S:
                continue
            self._close(ask, finding)
        disowned = _disowned(standings)
        if disowned is not None:
            self._on_disowned(disowned)

    def foreseen(self) -> Finding:
        """What would be found before a promotion of this node, once the silent were waited for. Blocking; any thread
        but the event loop's. The log was read to its end."""
        for _ in range(FORESEEN_ROUNDS):
            finding = self._found(self._standings(), CLAIM_PATIENCE_S, promotion=True)
            if finding.verdict is Verdict.GO:
                break
            with self._news:  # what others have read a moment later
                self._news.wait_for(lambda: self._stopping, AGAIN_S)
        return finding

    def _found(
        self, standings: Mapping[str, Standing | None], waited_s: float, *, promotion: bool, force: bool = False
    ) -> Finding:
        disowned = _disowned(standings)
        if disowned is not None:
            return Finding(Verdict.REFUSE, disowned, absolute=True)
        words = {name: one.word if one is not None else None for name, one in standings.items()}
        return self._stored_more() or judge(self._asking(promotion=promotion, force=force), words, waited_s)

    def _drop(self, ask: Ask) -> None:
        with self._news:
            if self._questions.get(ask.about, (None,))[0] == ask:
                del self._questions[ask.about]
        self._engine.waits_for = None

    def _close(self, ask: Ask, finding: Finding) -> None:
        self._drop(ask)
        if finding.silent and finding.verdict is Verdict.GO:
            log(silent=", ".join(finding.silent)).warning(
                "goes on without having asked all members: what they alone have accepted would be lost"
            )
        if finding.verdict is Verdict.GO:
            self._engine.vouched(ask.about, ask.connection)
        elif ask.about == OWN_WRITES:
            self._engine.lose(finding.why)
        else:
            self._engine.vouched(ask.about, ask.connection, Refused(finding.why))

    def _asking(self, *, promotion: bool, force: bool) -> Question:
        self._listen_to_the_primary()
        state, reading, seen = self._engine.state, self._engine.reading, self._view().nodes
        heard_s = {name: seen[name].mono_s if name in seen else None for name in others(state, self._node)}
        following = reading.course.replica.following
        chain, away, loss_seen = following.chain, following.away(heard_s), reading.loss_seen
        alone = counts_alone(state) or (chain is not None and not chain.paused)
        return Question(reading.word, promotion, loss_seen, away, alone, force)

    def _listen_to_the_primary(self) -> None:
        course = self._engine.reading.course
        seen = self._view().nodes.get(course.replica.state.primary)
        if seen is not None and (seen.pulse.role, seen.pulse.state) == ("primary", "active"):
            course.primary_said(seen.mono_s, seen.epoch, seen.pulse.revision)

    def _word(self) -> Word:
        return self._engine.reading.word

    def _standings(self, patience_s: float = ANSWER_S) -> dict[str, Standing | None]:
        return self._members.standings(others(self._engine.state, self._node), patience_s)

    # ── where this node cannot go on with the log ──

    def _note_members(self) -> None:
        known = known_of(self._engine.state)
        if known == self._noted:
            return
        try:
            write_known(self._data_dir, known)
        except OSError as error:
            log(why=str(error)).warning("the list of members could not be written; trying again")
            return
        self._noted = known

    def _look_whether_all_is_back(self) -> None:
        """After a loss: once all members follow the log, nobody holds anything that is not in it."""
        engine = self._engine
        if not (engine.reading.loss_seen and engine.health.caught_up):
            return
        if all(one is not None and one.healthy for one in self._standings().values()):
            engine.reading.loss_seen = False

    def _look_for_gaps(self) -> None:
        """A log in which something is missing for us: others have accepted it, and we have read on."""
        gaps, health = self._engine.gaps, self._engine.health
        if gaps == self._gaps_seen or not health.caught_up:
            return
        self._gaps_seen = gaps
        before = [one.word.reached for one in self._standings().values() if one is not None and one.healthy]
        with self._news:
            self._news.wait_for(lambda: self._stopping, LOOK_S)
        own = self._word()
        if any(reached > own.reached for reached in before):
            self._engine.lose(
                f"the log goes on behind something that is missing in it: this node is at revision {own.revision}"
            )

    def _stored_more(self) -> Finding | None:
        """The store holds what this node has not read: others keep their state in the same database. None: it does
        not."""
        try:
            more = self._more_than_read()
        except BellwetherError as error:
            return Finding(Verdict.WAIT, f"the store does not say what it has ({error.detail})", absolute=True)
        if more is None:
            return None
        why = f"the store has revision {more}, this node {self._word().revision}: reading on"
        return Finding(Verdict.WAIT, why, absolute=True)

    def _more_than_read(self) -> int | None:
        """The revision that the store has, where that is more than this node has read. Raises a `BellwetherError`."""
        try:
            stored = self._store.reached()
        except StoreEmptied:
            stored = None
        if stored is None:
            self._engine.store_emptied()
            return None
        # Looked at afterwards: under load it is ahead of us at any moment, and we are there at the next.
        return beyond(stored, self._word())

    def _look_at_store(self) -> None:
        """Others who keep their state in the same database stored what the log has lost since: it is taken from there,
        and put back."""
        reached = self._word().reached
        try:
            more = self._more_than_read()
        except BellwetherError:  # the engine says so, as soon as there is anything to store
            more = None
        if more is None:
            self._behind = None
            return
        now_s = time.monotonic()
        if self._behind is None or self._behind[0] != reached:
            self._behind = reached, now_s
        if now_s < self._behind[1] + STORE_AHEAD_S and self._engine.reading.lost is None:
            return
        try:
            state, position = self._store.load()
            self._engine.replace(state, position, stored=True).result()
        except BellwetherError as error:
            log(why=error.detail).warning("what others have stored could not be read; trying again")
            return
        log(revision=state.revision).warning("the store was ahead of this node: goes on with what others stored")

    def _mend_history(self) -> None:
        """A record was found that is not what was written: another member has it."""
        revision = self._store.damaged
        if revision is None or not self._engine.health.caught_up:
            return
        urls = others(self._engine.state, self._node)
        for name, one in self._standings().items():
            if one is None or not one.healthy or one.word.generation != self._engine.state.generation:
                continue
            try:
                self._store.mend_history(fetch_record(partial(self._members.history, urls[name]), revision))
            except BellwetherError as error:
                log(member=name, revision=revision, why=error.detail).warning("a damaged record is not mended yet")
                continue
            log(member=name, revision=revision).warning("a damaged record of the history was taken from another member")
            return
        self._store.damaged = None  # until somebody asks for it again

    def _look_for_another_log(self) -> None:
        """The log is out of reach for long, or somebody speaks of a later epoch: another member may have begun a log of
        its own (`failover --force`)."""
        if self._engine.health.caught_up:
            self._reached_s = time.monotonic()
        later = any(seen.epoch > self._engine.state.epoch for seen in self._view().nodes.values())
        if time.monotonic() - self._reached_s < LONELY_S and not later:
            return
        own, standings = self._word(), self._standings()
        disowned = _disowned(standings)
        if disowned is not None:
            self._on_disowned(disowned)
        newer = [name for name, one in standings.items() if one is not None and newer_log(one.word, own)]
        if newer:
            self._engine.lose(f"{newer[0]} follows another log, begun later: this node's is given up")

    def _look_for_history(self) -> None:
        try:
            self._bygone.look(lambda: others(self._engine.state, self._node).get(self._donor() or ""))
        except BellwetherError as error:
            log(why=error.detail).warning("it cannot be seen what of the history is missing; trying again")

    def _donor(self) -> str | None:
        cluster = str(need(self._engine.state, "setting", CLUSTER_ID).spec["value"])
        return donor(self._word(), cluster, self._standings())

    def _heal(self) -> None:
        """Take the state of another member."""
        engine = self._engine
        if engine.reading.lost is None or engine.expelled is not None:
            self._heals, self._kept = False, None
            return
        state, standings = engine.state, self._standings()
        cluster = str(need(state, "setting", CLUSTER_ID).spec["value"])
        name = donor(self._word(), cluster, standings)
        if name is None:
            engine.healing = None
            return
        url = others(state, self._node)[name]
        engine.healing = f"taking a snapshot from {name}"
        log(member=name, why=engine.reading.lost).warning("taking the state of another member")
        try:
            self._take_over(name, url, cluster)
        except (BellwetherError, OSError) as error:
            log(member=name, why=str(error)).warning("its state could not be taken; trying again")
            return
        finally:
            engine.healing = None
        self._heals = False

    def _take_over(self, name: str, url: str, cluster: str) -> None:
        began_s, engine = time.monotonic(), self._engine
        state, position = self._members.snapshot(url)
        if str(need(state, "setting", CLUSTER_ID).spec["value"]) != cluster:
            raise Refused(f"{name} belongs to another cluster")
        self._store.migrate()  # nobody writes back what somebody drops from the store of a node that has lost the log
        if self._kept is None:  # once, however often it is tried
            self._kept = set_aside(self._store, self._data_dir, self._first_alone(url, state))
        if self._kept is not None:
            log(file=str(self._kept)).error("what this node had accepted and the others went on without is kept there")
        want_history(self._data_dir)
        try:
            engine.replace(state, position, unless_ahead=True).result()
        except StoreAhead as error:
            log(why=error.detail).warning("goes on with what others have stored meanwhile")
            state, position = self._store.load()
            engine.replace(state, position, stored=True).result()
            self._kept = None
            return
        self._kept = None
        took_s = round(time.monotonic() - began_s, 2)
        log(member=name, revision=state.revision, seconds=took_s).info("follows the log again, with its state")

    def _first_alone(self, url: str, state: State) -> int:
        """The lowest revision of ours that is not known to be in this state of a member."""
        missing_from, begun = self._engine.reading.missing_from, beginning(state)
        if missing_from is not None:
            return missing_from
        if begun is not None and begun.instead_of == self._engine.state.generation:
            return begun.before + 1  # where those who began another log left this one
        newest = min(self._engine.state.revision, state.revision)
        try:
            return first_alone(self._store, self._members.history(url, newest))
        except (ValueError, TypeError) as error:
            raise Invalid(f"its history is damaged ({error!r})") from None


def others(state: State, node: str) -> dict[str, str]:
    """URLs of the other members, by name."""
    return {one.id: str(one.spec["url"]) for one in state.of("node") if one.id != node}
