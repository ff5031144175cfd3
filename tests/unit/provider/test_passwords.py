"""Passwords: what one may be, hashes that say how they were made, and no more work at once than a provider can bear."""

import asyncio

import pytest
from argon2 import extract_parameters

from provider.api.access.passwords import (
    AT_ONCE,
    LANES,
    LENGTH_MAX,
    LENGTH_MIN,
    MEMORY_KIB,
    PASSES,
    WAITING_MAX,
    Passwords,
)
from provider.api.access.passwords import checked as check
from shared.errors import Invalid, TooManyRequests

GOOD = "correct horse battery"


@pytest.mark.parametrize("text", ["", "x" * (LENGTH_MIN - 1), "x" * (LENGTH_MAX + 1), "administrator", "ADMINISTRATOR"])
def test_what_is_no_password(text: str) -> None:
    with pytest.raises(Invalid, match="password"):
        check(text, "administrator")


@pytest.mark.parametrize(
    "text", ["x" * LENGTH_MIN, "x" * LENGTH_MAX, GOOD, "пароль длинный", "🐴🔋 correct staple", "            "]
)
def test_anything_long_enough_is_one(text: str) -> None:
    assert check(text, "administrator")


def test_hashes_are_argon2id_as_owasp_asks_and_no_two_are_equal() -> None:
    async def story() -> None:
        passwords = Passwords()
        one, other = await passwords.hash(GOOD, "ann"), await passwords.hash(GOOD, "ann")
        assert one != other
        assert one.startswith(f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$")
        assert MEMORY_KIB >= 19 * 1024
        assert await passwords.matches(GOOD, one)
        assert await passwords.matches(GOOD, other)
        assert not await passwords.matches(GOOD + " ", one)
        assert not await passwords.matches("", one)
        assert not await passwords.matches(GOOD, None)
        assert not await passwords.matches(GOOD, "not a hash")
        assert not await passwords.matches("x" * (LENGTH_MAX + 1), one)
        assert not await passwords.matches("\ud800" * LENGTH_MIN, one)
        passwords.close()

    asyncio.run(story())


def test_the_same_letters_typed_otherwise_are_the_same_password() -> None:
    async def story() -> None:
        passwords = Passwords()
        hashed = await passwords.hash("Ångström Ångström", "ann")
        assert await passwords.matches("A\u030angstro\u0308m A\u030angstro\u0308m", hashed)
        passwords.close()

    asyncio.run(story())


def test_nobody_has_a_hash_that_costs_what_a_real_one_does() -> None:
    passwords = Passwords()
    parameters = extract_parameters(passwords._nobody)
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (MEMORY_KIB, PASSES, LANES)
    assert (parameters.hash_len, parameters.salt_len) == (32, 16)
    passwords.close()


def test_a_crowd_is_told_to_come_again() -> None:
    async def story() -> list[object]:
        passwords = Passwords()
        hashed = await passwords.hash(GOOD, "ann")
        asked = (passwords.matches(GOOD, hashed) for _ in range(AT_ONCE + WAITING_MAX + 5))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert await passwords.matches(GOOD, hashed), "and then there is room again"
        passwords.close()
        return list(answers)

    answers = asyncio.run(story())
    assert answers.count(True) == AT_ONCE + WAITING_MAX
    assert sum(isinstance(answer, TooManyRequests) for answer in answers) == 5
