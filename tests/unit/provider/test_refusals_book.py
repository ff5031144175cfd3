"""What is told of refusals, when, and how little a flood of them costs."""

from provider.api.record.refusals_book import (
    BUSY_S,
    FLOOD_S,
    KINDS_MAX,
    KINDS_OF_ONE_MAX,
    MORE,
    REMEMBERED_MAX,
    REPEAT_S,
    SOON_S,
    SOURCES_MAX,
    Book,
    Kind,
    legible,
)


def kind(action: str = "PUT /x", source: str = "192.0.2.1") -> Kind:
    return Kind("?", source, action, "unauthenticated")


def note(book: Book, what: Kind, now_s: float) -> bool:
    return book.note(what, 401, "why", int(now_s * 1000), now_s)


def test_nothing_is_told_where_nothing_was_refused() -> None:
    book = Book("p1")
    assert (book.due_s, book.take(5.0)) == (None, ())


def test_equal_attempts_are_told_as_one_soon_after_the_first() -> None:
    book = Book("p1")
    assert [note(book, kind(), 10.0 + i / 10) for i in range(5)] == [True, False, False, False, False]
    assert book.due_s == 10.0 + SOON_S
    (attempt,) = book.take(12.0)
    assert (attempt.count, attempt.at, attempt.node, attempt.detail) == (5, 10_000, "p1", "why")
    assert (book.due_s, book.take(13.0)) == (None, ())


def test_what_was_told_is_told_again_only_after_a_while() -> None:
    """A program with an old token asks each second, for weeks."""
    book = Book("p1")
    note(book, kind(), 0.0)
    book.take(2.0)
    told = []
    for second in range(3, 600):
        assert not note(book, kind(), float(second)) or second > REPEAT_S
        if book.due_s is not None and book.due_s <= second:
            told += [(second, attempt.count) for attempt in book.take(float(second))]
    assert [second for second, _ in told] == list(range(62, 600, 60))
    assert sum(count for _, count in told) == told[-1][0] - 2


def test_something_new_does_not_wait_for_what_is_repeated() -> None:
    book = Book("p1")
    note(book, kind(), 0.0)
    book.take(2.0)
    note(book, kind(), 20.0)
    assert book.due_s == 2.0 + REPEAT_S
    note(book, kind("PUT /y"), 21.0)
    assert book.due_s == 21.0 + SOON_S
    assert len(book.take(23.0)) == 2


def commits(book: Book, *, each_s: float, seconds: int, distinct: int = 1) -> list[int]:
    """How many attempts were told at each time, where new kinds come all the time."""
    told, number = [], 0
    for step in range(int(seconds / each_s)):
        now_s = step * each_s
        for _ in range(distinct):
            number += 1
            note(book, kind(f"PUT /{number}"), now_s)
        if book.due_s is not None and book.due_s <= now_s:
            told.append(len(book.take(now_s)))
    return told


def test_who_goes_on_for_long_is_told_of_less_often() -> None:
    assert len(commits(Book("p1"), each_s=1.0, seconds=3600)) <= 3600 / BUSY_S + 5


def test_a_flood_takes_little_room_and_few_commits() -> None:
    told = commits(Book("p1"), each_s=0.5, seconds=3600, distinct=100)
    assert max(told) == KINDS_OF_ONE_MAX + 1
    assert len(told) <= 3600 / FLOOD_S + 6


def test_after_a_quiet_time_it_is_told_soon_again() -> None:
    book = Book("p1")
    commits(book, each_s=0.5, seconds=600, distinct=100)
    book.take(700.0)
    note(book, kind("new"), 1000.0)
    book.take(1002.0)
    note(book, kind("newer"), 2000.0)
    assert book.due_s == 2000.0 + SOON_S


def test_one_address_does_not_hide_what_others_do() -> None:
    book = Book("p1")
    for number in range(10_000):
        note(book, kind(f"PUT /{number}"), 0.0)
    note(book, kind("PUT /quiet", "192.0.2.2"), 1.0)
    attempts = {(a.source, a.action): a.count for a in book.take(2.0)}
    assert attempts["192.0.2.2", "PUT /quiet"] == 1
    assert attempts["192.0.2.1", MORE] == 10_000 - KINDS_OF_ONE_MAX
    assert len(attempts) == KINDS_OF_ONE_MAX + 2


def test_a_flood_from_everywhere_is_told_in_bounded_room_and_every_attempt_is_counted() -> None:
    book = Book("p1")
    for number in range(20_000):
        note(book, kind(f"PUT /{number}", f"192.0.2.{number % 1000}"), 0.0)
    attempts = book.take(2.0)
    assert len(attempts) <= KINDS_MAX + SOURCES_MAX + 1
    assert sum(attempt.count for attempt in attempts) == 20_000
    assert {a.code for a in attempts} == {"unauthenticated", "flood"}


def test_what_was_told_is_not_remembered_without_end() -> None:
    book = Book("p1")
    for number in range(3 * REMEMBERED_MAX):
        note(book, kind(f"PUT /{number}", f"192.0.2.{number}"), float(number))
        if number % 50 == 0:
            book.take(float(number))
    assert len(book._told) == REMEMBERED_MAX


def test_what_somebody_sent_is_shown_as_plain_text() -> None:
    assert legible("PUT /x", 300) == "PUT /x"
    assert legible("a\x1b[2Jb\nc\ud800\u202e", 300) == "a\ufffd[2Jb\ufffdc\ufffd\ufffd"
    assert legible("x" * 301, 300) == "x" * 299 + "…"
    assert legible("\n" * 10_000, 300) == "\ufffd" * 299 + "…"
