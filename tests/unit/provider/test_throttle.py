"""Who guesses passwords soon waits long, whoever merely forgot one does not, and nobody locks out somebody else."""

from hypothesis import given
from hypothesis import strategies as st

from provider.api.access import throttle
from provider.api.access.throttle import ACCOUNT, ADDRESS, LONGEST_S, PAIR, WINDOW_S, Limit, Throttle, network

HOME, EVIL = "192.0.2.1", "203.0.113.9"


def failures(subject: Throttle, times: int, *, account: str = "ann", address: str = EVIL, at: float = 0.0) -> None:
    for _ in range(times):
        assert subject.attempt(account, address, at) == 0.0


def test_five_failures_are_free_and_then_each_wait_is_twice_the_one_before() -> None:
    subject, now = Throttle(), 0.0
    failures(subject, PAIR.free)
    waits = []
    for _ in range(12):
        wait_s = subject.attempt("ann", EVIL, now)
        waits.append(wait_s)
        assert subject.attempt("ann", EVIL, now + wait_s - 0.01) > 0, "not a moment earlier"
        now += wait_s
        assert subject.attempt("ann", EVIL, now) == 0.0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, LONGEST_S, LONGEST_S]


def test_the_right_password_forgets_the_wrong_ones() -> None:
    subject, now = Throttle(), 0.0
    for _ in range(10):
        failures(subject, PAIR.free - 1, at=now)
        assert subject.attempt("ann", EVIL, now) == 0.0
        subject.succeeded("ann", EVIL)
        now += 1


def test_what_was_not_looked_at_does_not_count() -> None:
    subject = Throttle()
    for _ in range(100):
        failures(subject, 1)
        subject.withdrawn("ann", EVIL)
    assert len(subject) == 0


def test_failures_are_forgotten_a_while_after_the_last_wait() -> None:
    subject = Throttle()
    failures(subject, PAIR.free)
    assert subject.attempt("ann", EVIL, 0.5) > 0
    failures(subject, PAIR.free, at=1.0 + WINDOW_S)
    assert subject.attempt("ann", EVIL, 1.0 + WINDOW_S) > 0


def test_an_address_that_tries_many_accounts_waits() -> None:
    subject = Throttle()
    for number in range(ADDRESS.free):
        failures(subject, 1, account=f"user{number}")
    assert subject.attempt("another", EVIL, 0.0) == 1.0
    assert subject.attempt("another", HOME, 0.0) == 0.0


def test_many_addresses_together_slow_an_account_down_but_not_for_long() -> None:
    subject, now = Throttle(), 0.0
    for number in range(ACCOUNT.free + 50):
        now += subject.attempt("ann", f"198.51.100.{number}", now)
        subject.attempt("ann", f"198.51.100.{number}", now)
    assert 0 < subject.attempt("ann", HOME, now) <= ACCOUNT.longest_s


@given(st.lists(st.floats(0, 600), max_size=400))
def test_one_address_cannot_keep_a_user_out_from_elsewhere(pauses: list[float]) -> None:
    subject, now = Throttle(), 0.0
    for pause in pauses:
        now += pause
        for _ in range(3):
            subject.attempt("ann", EVIL, now)
    assert subject.attempt("ann", HOME, now) == 0.0


Step = st.tuples(
    st.floats(0, 2 * WINDOW_S),
    st.sampled_from(["ann", "bob"]),
    st.sampled_from([HOME, EVIL, "2001:db8::1"]),
    st.sampled_from(["fails", "fails", "fails", "succeeds", "withdrawn"]),
)


@given(st.lists(Step, max_size=200))
def test_whatever_happens_a_wait_is_bounded_and_enough(steps: list[tuple[float, str, str, str]]) -> None:
    """Invariant: a wait is at most a quarter of an hour; who waits as long as told is let through."""
    subject, now = Throttle(), 0.0
    for pause, account, address, ends in steps:
        now += pause
        wait_s = subject.attempt(account, address, now)
        assert 0 <= wait_s <= LONGEST_S
        if wait_s > 0:
            now += wait_s + 1e-6
            assert subject.attempt(account, address, now) == 0.0
        if ends == "succeeds":
            subject.succeeded(account, address)
        elif ends == "withdrawn":
            subject.withdrawn(account, address)


@given(st.lists(st.floats(0, 100), max_size=300))
def test_guesses_in_a_quarter_of_an_hour_are_few(pauses: list[float]) -> None:
    subject, now, let_through = Throttle(), 0.0, []
    for pause in pauses:
        now += pause
        if subject.attempt("ann", EVIL, now) == 0.0:
            let_through.append(now)
    for start in let_through:
        assert sum(start <= at < start + WINDOW_S for at in let_through) <= PAIR.free + 10


def test_memory_is_bounded() -> None:
    subject = Throttle()
    for number in range(2 * throttle.ENTRIES_MAX):
        subject.attempt(f"user{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(subject) <= 3 * throttle.ENTRIES_MAX


def test_a_whole_ipv6_network_counts_as_one() -> None:
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::") != network("2001:db8:1:3::")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") != network("192.0.2.2")
    assert network("not an address") == "not an address"
    assert Limit(free=0).wait_s(10_000) == LONGEST_S
