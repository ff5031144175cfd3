"""What people read is a sentence, whether it is about one node or several."""

import pytest

from shared.wording import agreeing, listed


@pytest.mark.parametrize(
    ("names", "said"),
    [(["p1"], "p1 does"), (["p1", "p2"], "p1 and p2 do"), (["p1", "p2", "p3"], "p1, p2 and p3 do")],
)
def test_names_and_the_verb_that_goes_with_them(names: list[str], said: str) -> None:
    assert agreeing(names, "does", "do") == said
    assert said.startswith(listed(names))
