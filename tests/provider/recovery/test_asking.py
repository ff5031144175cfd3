"""What a node asks the others before it writes, and before it becomes primary."""

import time

from provider.core.replica import Progress
from provider.core.vouching import CLAIM_PATIENCE_S, Verdict
from provider.recovery.known import known_members
from shared.errors import Refused
from tests.support.engines import Host
from tests.support.recovering import NAMES, Cluster, all_started, hears_the_primary


def test_a_primary_writes_when_all_have_answered(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    assert p1.answer(p1.put("a")).revision == 2
    assert p2.reach(2).digest == p3.reach(2).digest


def test_a_deposed_primary_that_the_log_tells_nothing_of_it_waits_for_who_knows(cluster: Cluster) -> None:
    """p2 took over and committed; then the brokers lost all of it, and p1, who was down, has nothing to compare."""
    p1, p2, _ = all_started(cluster)
    p1.answer(p1.put("a", 1))
    hears_the_primary(p2)
    cluster.stop("p1")
    kept = len(cluster.stream.records)
    p2.promoted()
    newest = p2.answer(p2.put("a", 2)).revision
    cluster.stream.forget(kept)
    cluster.stop("p2")
    cluster.stop("p3")
    p2 = cluster.start("p2")
    p1 = cluster.start("p1")
    ticket = p1.put("a", 3, again="key")
    assert not isinstance(p1.result(ticket), Progress)
    assert p1.reach(newest).primary == "p2"
    assert p2.value("a") == p1.value("a") == 2


def cut_off_while_the_primary_goes_on(cluster: Cluster) -> tuple[Host, int]:
    """p2 and p3 hear nothing more; p1 goes on, and acknowledges. Then brokers lose the end of the log, and p1's host
    its power. p2, which has read so far as the log goes now; the last revision that was acknowledged."""
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", "before"))
    hears_the_primary(p2, p3)
    p2.log.deaf = p3.log.deaf = True
    kept = len(cluster.stream.records)
    newest = p1.answer(p1.put("a", "acknowledged")).revision
    cluster.stop("p1")
    cluster.stream.forget(kept)
    p2.log.deaf = p3.log.deaf = False
    cluster.stream.cut()
    return p2, newest


def test_a_standby_that_was_cut_off_is_not_promoted_over_what_the_primary_acknowledged_meanwhile(
    cluster: Cluster,
) -> None:
    p2, newest = cut_off_while_the_primary_goes_on(cluster)
    refused = p2.result(p2.barrier(promote=True))
    assert isinstance(refused, Refused), refused
    assert "Start p1" in refused.detail
    p1 = cluster.start("p1")
    assert p2.promoted().revision == newest + 1
    assert p2.value("a") == "acknowledged"
    assert p1.reach(newest + 1).primary == "p2"


def test_where_the_log_was_followed_all_the_time_a_dead_primary_is_succeeded_at_once(cluster: Cluster) -> None:
    p1, p2, _ = all_started(cluster)
    last = p1.answer(p1.put("a")).revision
    hears_the_primary(p2)
    cluster.stop("p1")
    began_s = time.monotonic()
    assert p2.promoted().revision == last + 1
    assert time.monotonic() - began_s < CLAIM_PATIENCE_S


def test_a_standby_that_was_started_anew_meanwhile_needs_one_that_was_not(cluster: Cluster) -> None:
    p1, _, p3 = all_started(cluster)
    last = p1.answer(p1.put("a")).revision
    hears_the_primary(p3)
    cluster.stop("p1")
    cluster.stop("p2")
    p2 = cluster.start("p2")
    assert cluster.recoveries["p2"].foreseen().verdict is Verdict.GO
    assert p2.promoted().revision == last + 1


def test_a_running_node_notes_who_the_members_are(cluster: Cluster) -> None:
    p1, *_ = all_started(cluster)
    p1.answer(p1.put("a"))
    p1.until(lambda: known_members(cluster.data_dir("p1")) is not None, what="it notes nothing")
    known = known_members(cluster.data_dir("p1"))
    assert known is not None
    assert set(known.urls) == set(NAMES)
    assert known.cluster == "a cluster"
