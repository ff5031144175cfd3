"""Engines that are promoted, one after the other and together."""

import threading

from provider.core.entries import Claim, decode
from provider.core.replica import Ask, NotPrimary, Progress
from provider.core.state import Answer
from shared.errors import BellwetherError, Refused
from tests.support.engines import PATIENCE_S, StartHost, accepted_keys, entries
from tests.support.memory_log import MemoryLogStream


def test_promoted_it_commits_and_the_other_sends_clients_there(start: StartHost) -> None:
    p1, p2 = start("p1"), start("p2")
    p1.answer(p1.put("a"))
    state = p2.promoted()
    assert (state.epoch, state.revision) == (2, 3)
    p1.reach(3)
    assert p1.result(p1.put("b")) == NotPrimary("p2")
    answer = p2.answer(p2.put("b"))
    assert p1.reach(answer.revision).digest == p2.engine.state.digest


def test_a_promotion_that_the_others_speak_against_is_refused(start: StartHost, stream: MemoryLogStream) -> None:
    asked: list[Ask] = []
    start("p1").caught_up()
    p2 = start("p2", on_ask=asked.append).caught_up()
    ticket = p2.barrier(promote=True)
    p2.until(lambda: bool(asked), what="it asks nobody")
    p2.engine.vouched(asked[0].about, asked[0].connection, Refused("p1 knows more"))
    assert isinstance(p2.result(ticket), Refused)
    assert p2.engine.state.primary == "p1"


def test_a_deposed_primary_hands_on_all_that_it_held_and_its_late_entry_does_nothing(
    start: StartHost, stream: MemoryLogStream
) -> None:
    """p1's broker hangs: one entry is on its way, ten writes wait. p2 is promoted. Each of them is answered NotPrimary;
    done again at p2, each is there once, although p1's entry reaches the log in the end."""
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.log.shut()
    sent = p1.log.appended
    tickets = {"0": p1.put("0", "p1", again="0")}
    p1.until(lambda: p1.log.appended > sent)
    tickets |= {str(n): p1.put(str(n), "p1", again=str(n)) for n in range(1, 11)}
    p2.promoted()
    assert {type(p1.result(ticket)) for ticket in tickets.values()} == {NotPrimary}
    for key in tickets:
        p2.answer(p2.put(key, "p2", again=key))
    p1.log.open()
    p1.caught_up()
    p2.caught_up()
    assert [type(decode(data)) for data in stream.records].count(Claim) == 1
    assert any(entry.node == "p1" for entry in entries(stream))
    assert p1.engine.state.digest == p2.engine.state.digest
    assert {p1.value(key) for key in tickets} == {"p2"}
    assert p1.engine.health.skipped.get("other_epoch", 0) >= 1


def test_of_two_that_are_promoted_together_one_wins_and_the_other_knows_who(start: StartHost) -> None:
    hosts = {name: start(name).caught_up() for name in ("p1", "p2", "p3")}
    primary, epoch = "p1", 1
    for _ in range(20):
        rivals = [host for name, host in hosts.items() if name != primary]
        tickets = [host.barrier(promote=True) for host in rivals]
        results = [host.result(ticket) for host, ticket in zip(rivals, tickets, strict=True)]
        states = [result.state for result in results if isinstance(result, Progress)]
        assert len(states) == 2
        last = max(states, key=lambda state: state.revision)
        assert {host.reach(last.revision).primary for host in hosts.values()} == {last.primary}
        # Both at once: one wins. One after the other: the second had read of the first, and takes over from it.
        assert last.epoch in (epoch + 1, epoch + 2)
        assert last.epoch == epoch + 2 or {state.primary for state in states} == {last.primary}
        primary, epoch = last.primary, last.epoch


def test_writes_go_on_through_planned_promotions_and_none_is_lost_or_done_twice(start: StartHost) -> None:
    """Writers at both nodes, each going where it is sent, under the same key; promotions to and fro meanwhile."""
    hosts = {name: start(name).caught_up() for name in ("p1", "p2")}
    over = threading.Event()
    done: dict[str, int] = {}
    failures: list[BellwetherError] = []

    def write(writer: int) -> None:
        number, name = 0, "p1"
        while not over.is_set():
            key = f"{writer}.{number}"
            result = hosts[name].result(hosts[name].put(key, number, again=key, wait_s=PATIENCE_S))
            if isinstance(result, NotPrimary):
                name = result.primary
            elif isinstance(result, Answer):
                done[key] = result.revision
                number += 1
            elif isinstance(result, BellwetherError):
                failures.append(result)
                return

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for round_ in range(8):
        already = len(done)
        hosts["p1"].until(lambda many=already: len(done) > many + 20, what="no progress")  # type: ignore[misc]
        hosts[("p2", "p1")[round_ % 2]].promoted()
    over.set()
    for writer in writers:
        writer.join(PATIENCE_S)
    assert failures == []
    last = max(host.engine.state.revision for host in hosts.values())
    digests = {host.reach(last).digest for host in hosts.values()}
    assert len(digests) == 1
    for host in hosts.values():
        changed = accepted_keys(host)
        assert len(changed) == len(set(changed))
        assert {f"user.{key}" for key in done} <= set(changed)
