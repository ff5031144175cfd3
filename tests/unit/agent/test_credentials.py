"""The agent's broker passwords on disk: whatever is cut off in whatever moment, one that the broker knows is there."""

from pathlib import Path

import pytest

from agent import credentials
from agent.credentials import Held
from agent.settings import AgentFiles
from shared.errors import Invalid


@pytest.fixture
def files(tmp_path: Path) -> AgentFiles:
    return AgentFiles(tmp_path / "agent.toml")


def test_a_password_alone_is_number_nought(files: AgentFiles) -> None:
    files.broker_password.write_text("old\n")
    assert credentials.read(files) == Held(0, "old")


def test_the_next_one_is_kept_beside_it_and_tried_after_it_until_the_broker_knows_it(files: AgentFiles) -> None:
    held = Held(0, "old").with_next(1)
    credentials.write(held, files)
    read = credentials.read(files)
    assert read.passwords == ("old", held.next_password)
    assert read.offer is not None
    assert read.offer.number == 1
    credentials.write(held.activated(), files)
    assert credentials.read(files).passwords == (held.next_password, "old")
    credentials.write(held.switched(), files)
    assert credentials.read(files) == Held(1, held.next_password or "")
    assert "old" not in files.credential.read_text() + files.broker_password.read_text()
    assert {path.stat().st_mode & 0o777 for path in (files.credential, files.broker_password)} == {0o600}


def test_a_crash_between_the_two_files_loses_nothing(files: AgentFiles) -> None:
    held = Held(3, "old").with_next(4)
    credentials.write(held, files)
    assert held.next_password is not None
    files.broker_password.write_text(held.next_password)  # the first of the two that are written
    assert credentials.read(files) == Held(4, held.next_password)


@pytest.mark.parametrize("text", ["", "{", '{"number": -1}', '{"next": {"number": 1}}', '{"surprise": 1}', "[]"])
def test_a_damaged_file_is_said_and_shows_no_password(files: AgentFiles, text: str) -> None:
    files.broker_password.write_text("s3cret")
    files.credential.write_text(text)
    with pytest.raises(Invalid) as caught:
        credentials.read(files)
    assert "credential.json" in caught.value.detail
    assert "s3cret" not in caught.value.detail


def test_no_password_shows_in_what_is_printed() -> None:
    held = Held(0, "s3cret").with_next(1)
    assert "s3cret" not in repr(held)
    assert str(held.next_password) not in repr(held)
