"""The disk of one host is full. What cannot be written is refused in so many words; what can be goes on; and when there
is room again, all of it goes on by itself."""

import pytest

from tests.testbed.cluster import Cluster

pytestmark = pytest.mark.long


def test_a_standby_without_room_stops_nobody_for_good_and_catches_up(healthy: Cluster) -> None:
    before = healthy.equal()
    standby, other = healthy.standbys()
    with healthy.writing() as load:
        load.wait_for_more(10)
        standby.fill()
        load.wait_for_more(30, timeout_s=60)
        assert healthy.api(other).get("/cluster").status == 200
        standby.unfill()
        load.wait_for_more(30, timeout_s=60)
    healthy.healthy()
    healthy.check(load, after=before["revision"])


def test_a_primary_without_room_says_so_and_goes_on_when_there_is_room(healthy: Cluster) -> None:
    before = healthy.equal()
    primary, standby = healthy.primary(), healthy.standbys()[0]
    with healthy.writing() as load:
        load.wait_for_more(10)
        primary.fill()

        def refused() -> bool:
            answer = healthy.api(standby).put("/settings/user.no_room", {"value": "x" * 1000})
            return answer.status == 503 and answer.code == "disk_full"

        healthy.wait(refused, "nobody says that the primary's disk is full")
        assert healthy.api(primary).get("/settings?limit=1").status == 200, "reads go on"
        assert {view and view["primary"] for view in healthy.look().values()} == {primary.name}
        primary.unfill()
        load.wait_for_more(30, timeout_s=60)
    assert {f.status for f in load.failures} <= {0, 503, 504}
    after = healthy.healthy()
    assert (after["primary"], after["epoch"]) == (primary.name, before["epoch"])
    healthy.check(load, after=before["revision"])


def test_one_broker_that_is_short_of_room_has_all_wait_and_everybody_says_how_to_find_it(healthy: Cluster) -> None:
    """RabbitMQ stops the clients of all brokers then, before anybody's disk is full; nodes cannot say how they are."""
    healthy.at_home()  # a broker whose disk was full a moment ago may be started anew first
    primary, (short, other) = healthy.primary(), healthy.standbys()
    short.run("rabbitmqctl -q set_disk_free_limit 100000GB")
    told: list[str] = []

    def says_so() -> bool:
        told[:] = [primary.run("provider status").out]
        return f"DO       {primary.name}: one of the brokers" in told[0]

    healthy.wait(says_so, "the primary does not say what to do", told)
    assert ("STALE" in told[0], "failover" in told[0]) == (False, False), told
    assert f"rabbit@{short.name}" in primary.run("rabbitmq-diagnostics -q alarms").out
    said = other.ssh("failover --operation promote --wait 3")
    # RabbitMQ takes something of each new connection before it stops it: with some luck that is the claim.
    if said.code == 0:
        assert ("Writes are accepted" in said.out, "Writes wait: log: " in said.out) == (False, True), said
    else:
        assert ("rabbitmq-diagnostics alarms" in said.err, "--force" in said.err) == (True, False), said
    short.run("rabbitmqctl -q set_disk_free_limit 50MB")
    seen = healthy.healthy()
    assert seen["primary"] == (other if said.code == 0 else primary).name
    healthy.api(other).write("PUT", "/settings/user.room_again", {"value": 1})
