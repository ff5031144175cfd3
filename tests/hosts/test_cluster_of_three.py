"""Three hosts become a cluster by the commands of the appliance; then a day as an operator lives it."""

from tests.testbed.cluster import Cluster


def test_a_cluster_of_three_comes_up_and_all_hold_the_same(healthy: Cluster) -> None:
    healthy.api(healthy.standbys()[0]).write("PUT", "/settings/user.first", {"value": 1})
    seen = healthy.equal()
    assert [node["state"] for node in seen["nodes"]] == ["active"] * 3
    assert {view["digest"] for view in healthy.look().values() if view} == {seen["digest"]}


def test_the_operator_logs_in_and_asks_for_the_status(healthy: Cluster) -> None:
    answer = healthy.primary().ssh("provider status")
    assert answer.code == 0
    assert "nothing is wrong" in answer.out or "warning" in answer.out


def test_a_host_vanishes_and_comes_back(healthy: Cluster) -> None:
    primary, standby, other = healthy.primary(), *healthy.standbys()
    standby.power_off()
    written = healthy.api(primary).write("PUT", "/settings/user.while_it_was_away", {"value": 1})
    healthy.api(other).read("/settings/user.while_it_was_away", bellwether_min_revision=str(written.json["revision"]))
    standby.boot()
    healthy.healthy()
    assert healthy.api(standby).get("/settings/user.while_it_was_away").status == 200


def test_a_host_is_stopped_and_resumed(healthy: Cluster) -> None:
    primary, standby, _ = healthy.primary(), *healthy.standbys()
    standby.freeze()
    healthy.api(primary).write("PUT", "/settings/user.while_it_slept", {"value": 1})
    standby.thaw()
    healthy.healthy()
    assert healthy.api(standby).get("/settings/user.while_it_slept").status == 200


def test_all_power_fails_and_all_comes_back(healthy: Cluster) -> None:
    written = healthy.api(healthy.primary()).write("PUT", "/settings/user.before_the_night", {"value": 1})
    before = healthy.equal()
    for host in healthy.bed.hosts.values():
        host.power_off()
    after = healthy.healthy()
    assert (after["primary"], after["epoch"]) == (before["primary"], before["epoch"])
    assert after["revision"] >= written.json["revision"]
