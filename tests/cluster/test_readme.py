"""The tour in the README is true word for word: its commands are run as they stand, in its order."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def tour(directory: Path) -> str:
    """The tour's commands as one script, with the data in `directory`, each command shown before it runs."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## A tour of three minutes") : text.index("## Promoting a standby")]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    # The only change: not the reader's own .quickstart, which may be in use.
    script = re.sub(r"^deploy/quickstart.*$", rf"\g<0> --directory {directory}", script, flags=re.MULTILINE)
    return "set -x\n" + script.replace(".quickstart/", f"{directory}/")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that the tour prints."""
    directory = tmp_path_factory.mktemp("tour") / "q"
    try:
        done = subprocess.run(
            ["bash", "-c", tour(directory)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        subprocess.run(
            [REPOSITORY / "deploy" / "quickstart", "clean", "--directory", directory], capture_output=True, check=False
        )
    return done.stdout


def test_the_database_made_through_a_standby_is_on_the_server(told: str) -> None:
    assert re.search(r"^db1/shop: pending, revision \d+$", told, re.MULTILINE), told
    shown = told[told.index("show databases") :]
    assert re.search(r"^shop$", shown, re.MULTILINE), told


def test_without_a_primary_reads_go_on_and_a_write_says_what_to_do(told: str) -> None:
    after = told[told.index("+ kill -9") :]
    assert re.search(r"^shop +ready +charset=utf8mb4$", after, re.MULTILINE), told
    assert re.search(
        r"^error: the primary, p1, could not be reached .*failover --operation promote", after, re.MULTILINE
    )


def test_the_standby_is_promoted_and_every_agent_follows(told: str) -> None:
    after = told[told.index("+ failover") :]
    assert "nothing acknowledged is missing" in after, told
    assert re.search(r"advise +3 of 3 agents follow epoch 2", after), told
    assert re.search(r"^p2 is primary: epoch 2, revision \d+\. Writes are accepted\.$", after, re.MULTILINE), told
    assert re.search(r"^db1/orders: pending, revision \d+$", after, re.MULTILINE), told
    assert len(re.findall(r"^db\d +online +yes +2 ", after, re.MULTILINE)) == 3, told


def test_the_old_primary_comes_back_as_a_standby_and_nothing_is_left(told: str) -> None:
    after = told[told.index("start p1 --directory") :]
    assert re.search(r"^ +p1 +standby +active ", after, re.MULTILINE), told
    assert re.search(r"q is deleted\.$", after, re.MULTILINE), told
