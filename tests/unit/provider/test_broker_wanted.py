"""What root takes from the daemon's file, and what it refuses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.broker.host.apply import apply_newest, read_wanted
from provider.broker.host.wanted import SIZE_MAX, Wanted, parse
from provider.core.documents import BrokerNode
from shared.errors import Invalid

STEADY = settings(derandomize=True)

COOKIE = "A-cookie-of-32-characters-or-so_"

ANEW = {"generation": "abc123", "first": "rabbit@p1", "user": "boss", "password_hash": "h" * 48}


def broker(number: int) -> dict[str, Any]:
    return {"node": f"rabbit@p{number}", "version": "4.0.5", "address": f"10.0.0.{number}", "plugins": []}


def wanted(**changes: Any) -> bytes:
    content = {
        "v": 1,
        "own": "rabbit@p1",
        "member": True,
        "brokers": [broker(1), broker(2)],
        "gone": ["rabbit@p3"],
        "cookie": COOKIE,
        "stream": "bellwether.log.abc123",
    }
    return json.dumps(content | changes).encode()


def test_what_the_daemon_writes_is_what_root_reads() -> None:
    written = parse(wanted())
    assert parse(written.text().encode()) == written
    assert written.others == ("rabbit@p2",)
    anew = parse(wanted(anew=ANEW))
    assert (anew.begins, parse(wanted(anew=ANEW | {"first": "rabbit@p2"})).begins) == (True, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"cookie": '\'). os:cmd("id"). %aaaaaaaaaa'},
        {"cookie": "too-short"},
        {"cookie": None},
        {"own": "rabbit@p1\n6.6.6.6 localhost"},
        {"own": "rabbit@../../etc"},
        {"own": "other@p1"},
        {"brokers": [broker(1), broker(2) | {"node": "rabbit@localhost"}]},
        {"brokers": [broker(1), broker(2) | {"node": "rabbit@packages.example"}]},
        {"brokers": [broker(1), broker(2) | {"address": "127.0.0.1"}]},
        {"brokers": [broker(1), broker(2) | {"address": "10.0.0.2 packages.example"}]},
        {"brokers": [broker(1), broker(2) | {"address": "fe80::1%eth0 x"}]},
        {"brokers": [broker(1), broker(2) | {"address": "10.0.0.1"}]},
        {"brokers": [broker(1), broker(2), broker(2)]},
        {"brokers": [broker(2)]},
        {"gone": ["rabbit@p1"]},
        {"gone": ["rabbit@p2"]},
        {"stream": "--vhost"},
        {"stream": None},
        {"member": False},
        {"v": 2},
        {"file": "/etc/shadow"},
        {"anew": ANEW | {"first": "rabbit@p9"}},
        {"anew": ANEW | {"generation": "../../../etc"}},
        {"anew": ANEW | {"user": "boss\n"}},
        {"anew": ANEW | {"password_hash": '"}], "x"'}},
        {"anew": ANEW | {"cookie": "x"}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_what_could_do_harm_or_contradicts_itself_is_refused_as_a_whole(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        parse(wanted(**changes))
    assert COOKIE not in refused.value.detail


@STEADY
@given(st.binary(max_size=200))
def test_bytes_that_somebody_made_up_are_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse(data)


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    assert read_wanted(tmp_path / "none") is None
    secret, link, pipe, large = (tmp_path / name for name in ("secret", "link", "pipe", "large"))
    secret.write_bytes(wanted())
    link.symlink_to(secret)
    os.mkfifo(pipe)
    large.write_bytes(b" " * (SIZE_MAX + 1))
    for path in (link, pipe, large, tmp_path):
        with pytest.raises(Invalid):
            read_wanted(path)
    assert read_wanted(secret) == parse(wanted())


def test_what_is_asked_for_while_it_works_is_not_missed() -> None:
    """A host that is removed in the moment in which it has joined is asked to leave again at once."""
    member, removed = parse(wanted()), Wanted(own="rabbit@p1", member=False)
    asked, made = [member, removed, removed], list[Wanted]()
    assert apply_newest(lambda: asked.pop(0), made.append) == removed
    assert made == [member, removed]
    assert apply_newest(lambda: None, made.append) is None


def test_a_removed_node_needs_no_more_than_its_name() -> None:
    leaving = Wanted(own="rabbit@p1", member=False)
    assert parse(leaving.text().encode()) == leaving


def test_a_broker_s_document_says_where_it_is_and_nothing_else() -> None:
    assert BrokerNode.model_validate(broker(1)).host == "p1"
