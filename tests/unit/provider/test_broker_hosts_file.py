"""Our lines in /etc/hosts: what is there stays, what is ours is replaced."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.broker.host.hosts import BEGIN, END, names_in, with_block, without_block
from provider.core.documents import BrokerNode
from shared.errors import Refused

STEADY = settings(derandomize=True)

DEBIAN = "127.0.0.1 localhost\n127.0.1.1 p1\n\n# IPv6\n::1 ip6-localhost ip6-loopback\n"


def broker(number: int, address: str | None = None) -> BrokerNode:
    return BrokerNode(node=f"rabbit@p{number}", version="4.0.5", address=address or f"10.0.0.{number}")


THREE = [broker(1), broker(2), broker(3)]


def test_the_others_are_named_and_the_own_host_is_left_as_it_is() -> None:
    text = with_block(DEBIAN, THREE, "rabbit@p1")
    assert text.startswith(DEBIAN)
    assert names_in(text)["p2"] == {"10.0.0.2"}
    assert names_in(text)["p1"] == {"127.0.1.1"}


def test_another_address_replaces_the_old_one() -> None:
    moved = with_block(with_block(DEBIAN, THREE, "rabbit@p1"), [broker(1), broker(2, "10.0.0.9")], "rabbit@p1")
    assert names_in(moved)["p2"] == {"10.0.0.9"}
    assert "p3" not in names_in(moved)


def test_nothing_of_ours_is_left_where_no_other_broker_is() -> None:
    assert with_block(with_block(DEBIAN, THREE, "rabbit@p1"), [broker(1)], "rabbit@p1") == DEBIAN


def test_what_people_wrote_about_a_broker_is_not_overruled() -> None:
    with pytest.raises(Refused, match=r"/etc/hosts says that p2 is 10\.9\.9\.9, the cluster knows it at 10\.0\.0\.2"):
        with_block(DEBIAN + "10.9.9.9 p2\n", THREE, "rabbit@p1")
    assert "p2" in names_in(with_block(DEBIAN + "10.0.0.2 p2\n", THREE, "rabbit@p1"))


def test_a_block_whose_end_was_cut_off_takes_nothing_of_others_with_it() -> None:
    cut = f"{DEBIAN}{BEGIN}\n10.0.0.2 p2\n\n10.5.5.5 printer\n"
    assert names_in(without_block(cut)) == names_in(DEBIAN) | {"printer": {"10.5.5.5"}}


lines = st.text(alphabet="abp123. #:\t", max_size=20)


@STEADY
@given(st.lists(lines, max_size=8))
def test_whatever_the_file_holds_it_is_kept_and_twice_is_as_once(others: list[str]) -> None:
    text = "".join(f"{line}\n" for line in others)
    try:
        once = with_block(text, THREE, "rabbit@p1")
    except Refused:
        return
    assert with_block(once, THREE, "rabbit@p1") == once
    assert without_block(once).rstrip("\n") == text.rstrip("\n")
    assert once.count(BEGIN) == once.count(END) == 1
