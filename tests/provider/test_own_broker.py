"""What a daemon asks of root for its host's broker: until root says that it is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from localcluster.process import wait_until

from provider.broker import own as own_broker
from provider.broker.own import OwnBroker
from provider.core.commands import BROKER_COOKIE, put
from provider.core.entries import Change, Claim
from provider.core.state import Accepted, Delta, State
from provider.trust.membership import sealed_cookie
from provider.trust.vault import Vault, new_data_key

BROKER = {"node": "rabbit@p1", "version": "4.0.5", "address": "10.0.0.1", "plugins": []}


COOKIE = "A-cookie-of-32-characters-or-so_"


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    return lambda: dict(json.loads((tmp_path / "broker.json").read_text()))


def test_what_root_did_not_see_is_asked_for_again_until_it_is_done(
    tmp_path: Path, asked: Callable[[], dict[str, Any]]
) -> None:
    """The unit that looks at the file is blind while what it has started still runs."""
    file, status = tmp_path / "broker.json", tmp_path / "status.json"
    node = Change(kind="node", id="p1", spec={"url": "https://p1:1", "broker": BROKER})
    state = State.genesis(generation="g", primary="p1", now=0, changes=(node,))
    own = OwnBroker(node="p1", data_dir=tmp_path, state=state, vault=None, status=status)  # type: ignore[arg-type]
    own.removed()
    own.start()
    try:
        wait_until(file.exists, timeout_s=20, what="nothing is asked for")
        first = asked()
        assert (first["member"], first["own"]) == (False, "rabbit@p1")
        status.write_text(json.dumps({"problem": "/etc/hosts says otherwise", "at": 1, "made": None}))
        file.unlink()
        wait_until(file.exists, timeout_s=20, what="it is not asked for again")
        assert asked() == first, "it is the same request"
        assert own.hindrance == "/etc/hosts says otherwise", "what root said, for those who do not look there"
        status.write_text(json.dumps({"problem": None, "at": 1, "made": first["asked"]}))
        wait_until(lambda: own.made, timeout_s=60, what="it does not see that it is done")
        assert own.hindrance is None
    finally:
        own.stop()


def test_what_root_found_the_broker_to_be_is_told_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state had the version of when the node joined for ever, and newcomers of the present one were refused."""
    monkeypatch.setattr(own_broker, "MADE_S", 0.05)
    state = State.genesis(
        generation="g",
        primary="p1",
        now=0,
        changes=(Change(kind="node", id="p1", spec={"url": "https://p1:1", "broker": BROKER}),),
    )
    status, told = tmp_path / "status.json", list[object]()
    own = OwnBroker(
        node="p1",
        data_dir=tmp_path,
        state=state,
        vault=None,  # type: ignore[arg-type]
        status=status,
        on_software=lambda: told.append(own.software),
    )
    own.removed()
    said = {"problem": None, "at": 1, "made": None}
    status.write_text(json.dumps(said | {"broker": {"version": "no number", "plugins": []}}))
    own.start()
    try:
        wait_until((tmp_path / "broker.json").exists, timeout_s=20, what="nothing is asked for")
        (tmp_path / "broker.json").unlink()
        wait_until((tmp_path / "broker.json").exists, timeout_s=20, what="it is not asked for again")
        assert told == []
        found = {"version": "4.1.0", "plugins": ["jose"]}
        status.write_text(json.dumps(said | {"broker": found}))
        wait_until(lambda: told == [found], timeout_s=30, what="it is not told")
    finally:
        own.stop()


def a_state(vault: Vault, *brokers: dict[str, Any], cookie: str = COOKIE) -> State:
    """Of p1, p2…, with these brokers."""
    nodes = [
        Change(kind="node", id=f"p{n}", spec={"url": f"https://p{n}:1", "broker": one})
        for n, one in enumerate(brokers, 1)
    ]
    known = put("credential", BROKER_COOKIE, sealed_cookie(vault, cookie))
    return State.genesis(generation="g", primary="p1", now=0, changes=(*nodes, known))


@pytest.mark.parametrize(
    ("others", "cookie", "why"),
    [
        ([BROKER | {"node": "rabbit@p2"}], COOKIE, "rabbit@p1 at 10.0.0.1, rabbit@p2 at 10.0.0.1"),
        ([{**BROKER, "node": "rabbit@localhost", "address": "10.0.0.2"}], COOKIE, "localhost"),
        ([], "too-short", "cookie"),
    ],
    ids=["one address", "reserved name", "cookie"],
)
def test_what_contradicts_itself_is_a_problem_that_is_told_and_ends_with_its_reason(
    tmp_path: Path, asked: Callable[[], dict[str, Any]], others: list[dict[str, Any]], cookie: str, why: str
) -> None:
    """The thread goes on: else the daemon would end, now and after each start, on every host with a broker."""
    vault = Vault({"k1": new_data_key()})
    state = a_state(vault, BROKER, *others, cookie=cookie)
    own = OwnBroker(node="p1", data_dir=tmp_path, state=state, vault=vault, status=tmp_path / "status.json")
    own.start()
    try:
        wait_until(lambda: own.problem is not None, timeout_s=20, what="it does not say what is wrong")
        assert why in (own.problem or "")
        assert "too-short" not in (own.problem or "")
        assert not (tmp_path / "broker.json").exists()
        mended = a_state(vault, BROKER)
        claim = Claim(generation="g", id="c", ends=1, node="p1", at=1)
        own.applied(mended, [Accepted(mended, claim, Delta())])
        wait_until(lambda: own.problem is None, timeout_s=20, what="it does not go on")
        assert asked()["own"] == "rabbit@p1"
    finally:
        own.stop()
