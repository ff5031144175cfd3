"""Commands: what each becomes, with which status, and every reason to refuse it."""

from typing import Any

import pytest

from provider.core import documents as docs
from provider.core.commands import (
    CERTIFICATE_HOSTS,
    KNOWN_SETTINGS,
    LATE_MAX_MS,
    REFUSALS_MAX,
    SETTING_MAX_BYTES,
    SETTING_MAX_DEPTH,
    Command,
    DeleteSetting,
    DeleteToken,
    DeleteUser,
    DeleteWish,
    EndSession,
    EndSessions,
    EnrollAgent,
    NumberSetting,
    Plan,
    Precondition,
    PutSetting,
    PutToken,
    PutUser,
    PutWish,
    RecordRefusals,
    RecordStatus,
    RecordTokenUses,
    RegisterInstance,
    ReissueAdministrator,
    RemoveAgent,
    SetPassword,
    StatusUpdate,
    TokenUse,
    clock_skew_s,
    more_hosts,
    put,
)
from provider.core.documents import (
    AccountSpec,
    DatabaseSpec,
    Document,
    InstanceStatus,
    SessionSpec,
    TokenSpec,
    WishStatus,
)
from provider.core.entries import Attempt, Change, Commit, Entry
from provider.core.state import Accepted, State, step
from shared.errors import (
    BellwetherError,
    Conflict,
    Invalid,
    NotFound,
    Refused,
    StaleRevision,
    TokenRefused,
    TooLarge,
)

NOW = 1_700_000_000_000
SPEC_NODE = docs.NodeSpec(url="https://p1", endpoints=("amqps://p1",), version="1.0", token_sha256="x", public_key="00")
SPEC_AGENT = docs.AgentSpec(token_sha256="x", broker_password_hash="y")


def instance(agent: str = "db1") -> docs.InstanceSpec:
    return docs.InstanceSpec(agent=agent, engine="mariadb", socket="/run/x.sock")


def token(role: Any = "agent", expires_at: int | None = None) -> TokenSpec:
    return TokenSpec(role=role, sha256="x", expires_at=expires_at)


def fleet() -> State:
    """A node, an agent with one instance, two one-time tokens, a setting."""
    changes = (
        put("node", "p1", SPEC_NODE),
        put("agent", "db1", SPEC_AGENT),
        put("instance", "db1", instance()),
        put("key", "k1", docs.KeySpec(wrapped={"p1": "for p1"})),
        put("token", "join", token("node")),
        put("token", "enrol", token("agent", NOW)),
        Change(kind="setting", id="user.a", spec={"value": 1}),
        Change(kind="setting", id="cluster.removed.p9", spec={"value": NOW}),
    )
    return State.genesis(generation="g", primary="p1", now=NOW, changes=changes)


def do(state: State, command: Command, now: int = NOW) -> State:
    """`state` after `command`."""
    plan = command.plan(state, now)
    commit = Commit(principal="ann", action="", status=plan.status, target=plan.target, changes=plan.changes)
    seq = state.revision + 1
    record = Entry(id="e", generation="g", epoch=1, seq=seq, node="p1", at=now, commits=(commit,))
    outcome = step(state, record)
    assert isinstance(outcome, Accepted)
    return outcome.state


def get(state: State, kind: Any, id_: str) -> Document:
    found = state.get(kind, id_)
    assert found is not None
    return found


def status_of(state: State, command: Command) -> int:
    return command.plan(state, NOW).status


def refusal(state: State, command: Command, kind: type[BellwetherError], match: str | None = None) -> None:
    with pytest.raises(kind, match=match) as error:
        command.plan(state, NOW)
    error.value.detail.encode()  # can be told


# ── preconditions ────────────────────────────────────────────────────────────────────────────────────────────────────

BAD = [Precondition(revision=7), Precondition(absent=True), Precondition(revision=1, absent=True)]


@pytest.mark.parametrize("when", BAD, ids=str)
@pytest.mark.parametrize("make", [lambda w: PutSetting("user.a", 2, w), lambda w: DeleteSetting("user.a", w)])
def test_a_condition_that_does_not_hold(make: Any, when: Precondition) -> None:
    refusal(fleet(), make(when), StaleRevision)


def test_conditions_of_a_document_that_is_not_there() -> None:
    refusal(fleet(), PutSetting("user.b", 2, Precondition(revision=1)), StaleRevision, "does not exist")
    assert status_of(fleet(), PutSetting("user.b", 2, Precondition(absent=True))) == 201


def test_conditions_of_wishes() -> None:
    wish = PutWish("database", "db1", "shop", DatabaseSpec())
    state = do(fleet(), wish)
    old = Precondition(revision=1)
    refusal(state, PutWish("database", "db1", "shop", DatabaseSpec(charset="utf8mb4"), old), StaleRevision)
    refusal(state, DeleteWish("database", "db1", "shop", when=old), StaleRevision)
    refusal(state, DeleteWish("database", "db1", "shop", drop=True, when=old), StaleRevision)
    assert status_of(state, DeleteWish("database", "db1", "shop", when=Precondition(revision=2))) == 204


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_putting_a_setting() -> None:
    assert status_of(fleet(), PutSetting("user.b", [1])) == 201
    assert status_of(fleet(), PutSetting("user.a", 2)) == 200
    assert PutSetting("user.a", 1).plan(fleet(), NOW) == Plan(200, ("setting", "user.a"))
    assert get(do(fleet(), PutSetting("user.b", None)), "setting", "user.b").spec == {"value": None}


@pytest.mark.parametrize("value", [True, 1.0, "1", [1], -1])
def test_what_python_calls_equal_is_not_the_same_value(value: Any) -> None:
    state = do(fleet(), PutSetting("user.a", value))
    shown = get(state, "setting", "user.a").spec["value"]
    assert (type(shown), shown) == (type(value), value)
    assert len(PutSetting("user.a", 1).plan(state, NOW).changes) == 1


@pytest.mark.parametrize("value", [0, 0.0001, 0.04, float("nan"), 4000, True, "90"])
def test_no_certificates_that_expire_before_the_broker_has_read_them(value: Any) -> None:
    refusal(fleet(), PutSetting("certificates.days", value), Invalid, "certificates.days")
    assert status_of(fleet(), PutSetting("certificates.days", 0.05)) == 201


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize("value", [nested(SETTING_MAX_DEPTH), "x" * (SETTING_MAX_BYTES - 2), 10**4000, "\x00", "🐬"])
def test_the_largest_values_that_are_kept(value: Any) -> None:
    assert get(do(fleet(), PutSetting("user.a", value)), "setting", "user.a").spec == {"value": value}


@pytest.mark.parametrize(
    "value",
    [nested(SETTING_MAX_DEPTH + 1), nested(100_000), float("nan"), [float("-inf")], "\ud800", {"\ud800": 1}, 10**5000],
    ids=["deep", "deeper", "nan", "infinity", "surrogate", "surrogate in a key", "huge"],
)
def test_values_that_cannot_be_kept(value: Any) -> None:
    refusal(fleet(), PutSetting("user.a", value), Invalid, "value: ")


@pytest.mark.parametrize("value", ["x" * (SETTING_MAX_BYTES - 1), "ü" * (SETTING_MAX_BYTES // 2), "\x00" * 11_000])
def test_values_that_are_too_large(value: str) -> None:
    refusal(fleet(), PutSetting("user.a", value), TooLarge)


def test_names_of_settings() -> None:
    refusal(fleet(), PutSetting("user/a", 1), Invalid, "setting name")
    refusal(fleet(), PutSetting("users", 1), Invalid, "begin with 'user.'")
    refusal(fleet(), PutSetting("cluster.removed.p9", 1), Invalid, "begin with 'user.'")


@pytest.mark.parametrize("key", [key for key, known in KNOWN_SETTINGS.items() if isinstance(known, NumberSetting)])
def test_settings_of_the_clusters_own(key: str) -> None:
    known = KNOWN_SETTINGS[key]
    assert isinstance(known, NumberSetting)
    above, most = known.above, known.most
    assert all(status_of(fleet(), PutSetting(key, value)) == 201 for value in (above + 0.5, above + 1, most))
    value: Any
    for value in (above, -1, most + 1, True, "5", None, [], float("nan"), float("inf"), 10**400):
        refusal(fleet(), PutSetting(key, value), Invalid, key)


@pytest.mark.parametrize(
    "value",
    [[], ["api.example.org"], ["10.0.0.9", "::1", "*.example.org", "localhost", "a_b"], ["x" * 63] * 16],
)
def test_hosts_that_certificates_are_also_for(value: list[str]) -> None:
    state = do(fleet(), PutSetting(CERTIFICATE_HOSTS, value))
    assert more_hosts(state) == tuple(value)
    assert more_hosts(do(state, DeleteSetting(CERTIFICATE_HOSTS))) == ()


@pytest.mark.parametrize(
    "value",
    [
        "a",
        None,
        {},
        [1],
        [""],
        ["ü"],
        ["a b"],
        ["https://a"],
        ["a:1"],
        ["a.1"],
        ["fe80::1%eth0"],
        ["x" * 64],
        ["a"] * 17,
    ],
)
def test_what_is_no_host_for_a_certificate(value: Any) -> None:
    refusal(fleet(), PutSetting(CERTIFICATE_HOSTS, value), Invalid, "DNS names")


def test_how_far_clocks_may_differ() -> None:
    assert clock_skew_s(fleet()) == 2.0
    assert clock_skew_s(do(fleet(), PutSetting("cluster.clock_skew_s", 0.5))) == 0.5


def test_deleting_a_setting() -> None:
    assert do(fleet(), DeleteSetting("user.a")).get("setting", "user.a") is None
    assert status_of(fleet(), DeleteSetting("user.a")) == 204
    refusal(fleet(), DeleteSetting("user.b"), NotFound)
    refusal(fleet(), DeleteSetting("\ud800"), NotFound)
    refusal(fleet(), DeleteSetting("cluster.removed.p9"), Refused, "kept by the cluster")
    known = do(fleet(), PutSetting("history.days", 3))
    assert status_of(known, DeleteSetting("history.days")) == 204


# ── databases and accounts ───────────────────────────────────────────────────────────────────────────────────────────


def test_putting_a_database() -> None:
    wish = PutWish("database", "db1", "shop", DatabaseSpec(charset="utf8mb4"))
    state = do(fleet(), wish)
    made = get(state, "database", "db1/shop")
    assert (made.spec, made.status, made.wish) == ({"charset": "utf8mb4"}, {"phase": "pending"}, 2)
    assert wish.plan(state, NOW) == Plan(200, ("database", "db1/shop"))
    assert status_of(fleet(), wish) == 201
    assert status_of(state, PutWish("database", "db1", "shop", DatabaseSpec())) == 200


@pytest.mark.parametrize("name", ["a/b", "", "x" * 65, "🐬", "\x00", "\ud800"])
def test_a_wish_with_a_bad_name(name: str) -> None:
    refusal(fleet(), PutWish("database", "db1", name, DatabaseSpec()), Invalid, "database name")


def test_a_wish_of_an_unknown_instance() -> None:
    refusal(fleet(), PutWish("database", "db9", "shop", DatabaseSpec()), NotFound, "instance")
    refusal(fleet(), DeleteWish("database", "db9", "shop"), NotFound, "instance")
    refusal(fleet(), DeleteWish("account", "db1", "shop"), NotFound, "account")


def test_an_account_keeps_its_password_where_nothing_is_said_of_it() -> None:
    state = do(fleet(), PutWish("account", "db1", "ann", AccountSpec(password="sealed")))
    changed = do(state, PutWish("account", "db1", "ann", AccountSpec(host="localhost")))
    assert get(changed, "account", "db1/ann").spec["password"] == "sealed"
    other = do(state, PutWish("account", "db1", "ann", AccountSpec(password="other")))
    assert get(other, "account", "db1/ann").spec["password"] == "other"


def test_forgetting_and_dropping() -> None:
    state = do(fleet(), PutWish("database", "db1", "shop", DatabaseSpec()))
    assert status_of(state, DeleteWish("database", "db1", "shop")) == 204
    dropping = do(state, DeleteWish("database", "db1", "shop", drop=True))
    found = get(dropping, "database", "db1/shop")
    assert (found.status["phase"], found.wish) == ("dropping", 3)
    again = DeleteWish("database", "db1", "shop", drop=True)
    assert again.plan(dropping, NOW) == Plan(202, ("database", "db1/shop"))
    refusal(dropping, PutWish("database", "db1", "shop", DatabaseSpec()), Conflict, "being dropped")
    assert status_of(dropping, DeleteWish("database", "db1", "shop")) == 204


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens() -> None:
    assert status_of(fleet(), PutToken("new", token("admin"))) == 201
    refusal(fleet(), PutToken("join", token()), Conflict)
    assert status_of(fleet(), DeleteToken("join")) == 204
    refusal(fleet(), DeleteToken("new"), NotFound)


def test_a_new_token_takes_expired_ones_with_it_but_not_too_many_at_once() -> None:
    state = fleet()
    for number in range(3):
        state = do(state, PutToken(f"t{number}", token(expires_at=NOW + 1)))
    later = do(state, PutToken("new", token()), NOW + 2)
    assert [found.id for found in later.of("token")] == ["join", "new"]
    changes = tuple(put("token", f"t{n}", token(expires_at=0)) for n in range(1000))
    crowd = State.genesis(generation="g", primary="p1", now=NOW, changes=changes)
    assert len(PutToken("new", token()).plan(crowd, NOW).changes) == 101


@pytest.mark.parametrize(
    ("token_id", "now", "reason", "told"),
    [
        ("no such", NOW, "unknown", "needs a one-time agent token"),
        ("join", NOW, "wrong_kind", "for the role node"),
        ("enrol", NOW + 1, "expired", "has expired"),
        ("used", NOW, "used", "used before, by agent db7"),
        ("revoked", NOW, "revoked", "was revoked"),
    ],
)
def test_a_one_time_token_that_is_not_good(token_id: str, now: int, reason: str, told: str) -> None:
    """Whoever has got as far as here has shown its secret, and is told why."""
    state = do(do(fleet(), PutToken("used", token(expires_at=NOW + 9))), PutToken("revoked", token(expires_at=NOW + 9)))
    state = do(do(state, EnrollAgent("db7", "used", SPEC_AGENT)), DeleteToken("revoked"))
    with pytest.raises(TokenRefused, match=told) as error:
        EnrollAgent("db2", token_id, SPEC_AGENT).plan(state, now)
    assert (error.value.reason, error.value.token_id) == (reason, token_id)


def test_what_was_used_or_revoked_is_forgotten_with_its_time() -> None:
    state = do(fleet(), PutToken("used", token(expires_at=NOW + 9)))
    state = do(state, EnrollAgent("db7", "used", SPEC_AGENT))
    assert get(state, "token", "used").status == {"used_at": NOW, "used_by": "agent db7"}
    assert do(state, DeleteToken("used")).get("token", "used") is not None, "it stays what it is"
    assert do(state, PutToken("new", token()), NOW + 10).get("token", "used") is None
    for_ever = do(fleet(), PutToken("always", token()))
    assert do(for_ever, EnrollAgent("db7", "always", SPEC_AGENT)).get("token", "always") is None


def test_only_the_first_administrators_token_is_issued_anew() -> None:
    first = TokenSpec(role="admin", sha256="x", expires_at=None, administrator=True)
    state = do(do(fleet(), PutToken("mine", token("admin"))), PutToken("first", first))
    state = do(state, ReissueAdministrator("second", first))
    assert [found.id for found in state.of("token")] == ["enrol", "join", "mine", "second"]
    state = do(state, ReissueAdministrator("third", first))
    assert state.get("token", "second") is None
    refusal(state, ReissueAdministrator("third", first), Conflict)


def test_a_last_use_is_recorded_when_it_is_much_later_than_the_one_before() -> None:
    step_ms = 5 * 60 * 1000

    def use(at: int, source: str = "192.0.2.1") -> RecordTokenUses:
        return RecordTokenUses((TokenUse("join", at, source), TokenUse("gone", at, source)))

    state = do(fleet(), use(NOW))
    assert get(state, "token", "join").status == {"last_used_at": NOW, "last_used_from": "192.0.2.1"}
    assert get(state, "token", "join").wish == 1, "what was asked for is as it was"
    assert use(NOW + step_ms - 1).plan(state, NOW + step_ms).changes == ()
    assert use(NOW - 1).plan(state, NOW).changes == ()
    later = do(state, use(NOW + step_ms, "198.51.100.7"), NOW + step_ms)
    assert get(later, "token", "join").status["last_used_from"] == "198.51.100.7"
    ahead = do(state, use(NOW + 9 * step_ms), NOW + step_ms)
    assert get(ahead, "token", "join").status["last_used_at"] == NOW + step_ms, "a clock that is ahead proves nothing"
    both = RecordTokenUses((TokenUse("join", NOW + 2, "b"), TokenUse("join", NOW + 1, "a")))
    assert get(do(fleet(), both, NOW + 3), "token", "join").status["last_used_from"] == "b"


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def people() -> State:
    return do(fleet(), PutUser("ann", "viewer", "hash"))


def test_each_change_of_a_user_can_be_told_from_what_was() -> None:
    """Sessions name the revision (`wish`) that they were begun with."""
    state = people()
    changes: list[Command] = [
        PutUser("ann", "admin", None),
        PutUser("ann", "viewer", "another"),
        SetPassword("ann", "another"),
        EndSessions("ann"),
    ]
    for command in changes:
        assert get(do(state, command), "user", "ann").wish > get(state, "user", "ann").wish, command
    assert PutUser("ann", "viewer", None).plan(state, NOW).changes == ()
    again = do(do(state, DeleteUser("ann")), PutUser("ann", "viewer", "hash"))
    assert get(again, "user", "ann").wish > get(state, "user", "ann").wish


def test_reasons_not_to_change_a_user() -> None:
    state, old = people(), Precondition(revision=1)
    refusal(state, PutUser("Ann", "viewer", "hash"), Invalid, "user name")
    refusal(state, PutUser("bob", "viewer", None), Invalid, "a new user needs one")
    refusal(state, PutUser("ann", "admin", None, old), StaleRevision)
    refusal(state, PutUser("ann", "admin", None, Precondition(absent=True)), StaleRevision)
    refusal(state, DeleteUser("ann", old), StaleRevision)
    refusal(state, SetPassword("ann", "hash", checked=1), StaleRevision, "read it again")
    for command in (DeleteUser("bob"), SetPassword("bob", "hash"), EndSessions("bob")):
        refusal(state, command, NotFound)


def test_an_ended_session_is_remembered_until_it_would_have_ended() -> None:
    state = do(people(), EndSession("s1", SessionSpec(user="ann", expires_at=NOW + 1)))
    assert EndSession("s1", SessionSpec(user="ann", expires_at=NOW + 1)).plan(state, NOW).changes == ()
    state = do(state, EndSession("s2", SessionSpec(user="ann", expires_at=NOW + 5)), NOW + 2)
    assert [found.id for found in state.of("session")] == ["s2"]


# ── members ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_enrols_with_its_instances() -> None:
    state = do(fleet(), EnrollAgent("db2", "enrol", SPEC_AGENT, (("db2", instance("db2")), ("db3", instance("db2")))))
    assert get(state, "instance", "db3").spec["agent"] == "db2"
    assert get(state, "token", "enrol").status["used_by"] == "agent db2"


def test_reasons_not_to_enrol_an_agent() -> None:
    def enrol(id_: str, *instances: tuple[str, docs.InstanceSpec]) -> EnrollAgent:
        return EnrollAgent(id_, "enrol", SPEC_AGENT, instances)

    refusal(fleet(), enrol("a.b"), Invalid, "agent name")
    refusal(fleet(), enrol("all"), Invalid, "every agent")
    refusal(fleet(), enrol("db1"), Refused, "enrolled already")
    refusal(fleet(), enrol("db2", ("x y", instance("db2"))), Invalid, "instance name")
    refusal(fleet(), enrol("db2", ("db1", instance("db2"))), Refused, "looked after by agent 'db1'")
    refusal(fleet(), enrol("db2", ("db2", instance("db2")), ("db2", instance("db2"))), Invalid, "only once")
    refusal(fleet(), enrol("db2", ("db2", instance("db1"))), Invalid, "for agent 'db1'")


def test_an_instance_whose_agent_was_removed_is_taken_over() -> None:
    state = do(fleet(), RemoveAgent("db1"))
    refusal(state, RemoveAgent("db1"), NotFound)
    taken = do(state, EnrollAgent("db2", "enrol", SPEC_AGENT, (("db1", instance("db2")),)))
    assert get(taken, "instance", "db1").spec["agent"] == "db2"


def test_an_agent_registers_instances() -> None:
    assert status_of(fleet(), RegisterInstance("more", instance())) == 201
    assert RegisterInstance("db1", instance()).plan(fleet(), NOW) == Plan(200, ("instance", "db1"))
    moved = instance().model_copy(update={"socket": "/run/y.sock"})
    up = do(fleet(), RecordStatus((StatusUpdate("instance", "db1", InstanceStatus(state="up")),)))
    assert get(do(up, RegisterInstance("db1", moved)), "instance", "db1").status["state"] == "up"
    refusal(fleet(), RegisterInstance("a/b", instance()), Invalid, "instance name")
    refusal(fleet(), RegisterInstance("more", instance("db9")), NotFound, "agent")
    other = do(fleet(), EnrollAgent("db2", "enrol", SPEC_AGENT))
    refusal(other, RegisterInstance("db1", instance("db2")), Refused, "looked after by agent 'db1'")
    orphan = do(other, RemoveAgent("db1"))
    assert status_of(orphan, RegisterInstance("db1", instance("db2"))) == 200


# ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def wished(*, dropping: bool = False) -> State:
    state = do(fleet(), PutWish("database", "db1", "shop", DatabaseSpec(charset="utf8mb4")))
    return do(state, DeleteWish("database", "db1", "shop", drop=True)) if dropping else state


def report(status: WishStatus | None, wish: int | None = 2) -> StatusUpdate:
    return StatusUpdate("database", "db1/shop", status, wish)


READY = WishStatus(phase="ready")


def test_a_report_changes_the_status_and_not_the_wish() -> None:
    document = get(do(wished(), RecordStatus((report(READY),))), "database", "db1/shop")
    assert (document.status, document.spec) == ({"phase": "ready"}, {"charset": "utf8mb4"})
    assert (document.revision, document.wish) == (3, 2)


@pytest.mark.parametrize(
    "update",
    [report(READY, 1), report(READY, 9), report(WishStatus()), StatusUpdate("database", "db1/none", READY, 2)],
    ids=["of an older wish", "of a wish to come", "nothing new", "of what is gone"],
)
def test_a_report_that_says_nothing_of_now_changes_nothing(update: StatusUpdate) -> None:
    assert RecordStatus((update,)).plan(wished(), NOW) == Plan(200)


def test_a_document_goes_when_it_was_dropped_as_asked() -> None:
    state = do(wished(dropping=True), RecordStatus((report(None, 3),)))
    assert state.get("database", "db1/shop") is None


def test_nothing_is_forgotten_because_an_agent_says_that_it_dropped_what_nobody_asked_it_to() -> None:
    assert RecordStatus((report(None, 2),)).plan(wished(), NOW) == Plan(200)
    assert RecordStatus((StatusUpdate("agent", "db1", None),)).plan(fleet(), NOW) == Plan(200)


def test_of_several_reports_about_one_document_the_last_stands() -> None:
    """An entry changes each document once."""
    failed = WishStatus(phase="failed", message="no")
    (change,) = RecordStatus((report(READY), report(failed))).plan(wished(), NOW).changes
    assert change.status == {"phase": "failed", "message": "no"}
    assert RecordStatus((report(READY), report(WishStatus()))).plan(wished(), NOW).changes == ()


def test_a_report_leaves_a_spec_of_a_newer_version_as_it_is() -> None:
    new = Change(kind="instance", id="db1", spec={"agent": "db1", "engine": "mariadb", "shard": 7})
    state = State.genesis(generation="g", primary="p1", now=NOW, changes=(new,))
    (change,) = RecordStatus((StatusUpdate("instance", "db1", InstanceStatus(state="up")),)).plan(state, NOW).changes
    assert change.spec == new.spec


def test_a_status_of_the_wrong_kind_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        RecordStatus((StatusUpdate("database", "db1/shop", InstanceStatus(), 2),)).plan(wished(), NOW)
    with pytest.raises(TypeError):
        put("agent", "db1", SPEC_NODE)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def attempt(at: int) -> Attempt:
    return Attempt(at=at, node="p2", principal="?", action="GET /x", code="unauthenticated", status=401)


def test_noting_refusals_changes_no_document_and_counts_as_a_revision() -> None:
    before = fleet()
    after = do(before, RecordRefusals((attempt(NOW),)))
    assert (after.revision, after.documents, after.checksum) == (
        before.revision + 1,
        before.documents,
        before.checksum,
    )


def test_an_attempt_is_not_later_than_its_record_nor_a_day_earlier() -> None:
    """A node's clock may be wrong, and the log may have been away for long: who looks for a time finds it."""
    plan = RecordRefusals(tuple(map(attempt, (0, NOW - 5, NOW + 10**9)))).plan(fleet(), NOW)
    assert [a.at for a in plan.refused] == [NOW - LATE_MAX_MS, NOW - 5, NOW]
    late = RecordRefusals((attempt(NOW - 5),)).plan(fleet(), NOW - 10**6)  # the primary's own clock is behind
    assert [a.at for a in late.refused] == [NOW - 5]


def test_a_node_notes_a_limited_number_at_once() -> None:
    refusal(fleet(), RecordRefusals(tuple([attempt(NOW)] * (REFUSALS_MAX + 1))), Invalid)
