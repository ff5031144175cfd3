"""What pydantic finds, for people."""

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from shared.validation import problems


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: str
    password: SecretStr
    part: Part

    @field_validator("url")
    @classmethod
    def _no_blank(cls, url: str) -> str:
        if " " in url:
            raise ValueError("has a blank")
        return url


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"urll": "a", "password": "p", "part": {"number": 1}}, "urll: is not known; url: is missing"),
        ({"url": "a b", "password": "p", "part": {"number": 1}}, "url: has a blank"),
        ({"url": "a", "password": ["hush"], "part": {"number": 1}}, "password: Input should be a valid string"),
        (
            {"a": 1, "b": 2, "part": {"c": 3}},
            "part.c: is not known; a: is not known; b: is not known; and 3 more",
        ),
    ],
    ids=["a name misspelt", "our own words", "no value", "many"],
)
def test_each_problem_is_named_and_what_is_not_known_first(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(given)
    found = problems(caught.value)
    assert (found, "hush" in found) == (said, False)
