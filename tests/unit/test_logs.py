"""One event is one line, whatever is in it. A process of its own says it: the log is the process's stderr."""

import json
import re
import subprocess
import sys

import pytest

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +\S.* node=p1( |$)")
TRICKS = [
    *(
        "a\nb",
        "a\r\nb",
        "a\rb",
        "\x1b[2J",
        "\x9b2J",
        "a\u2028b",
        "a\u2029b",
        "a\x85b",
        "a\x0bb",
        "a\x0cb",
        "\u202egpj.exe",
    ),
    *(
        "\x00",
        "\x7f",
        "\ud800",
        "\ufeff",
        '" node=p2 x="',
        "a=b",
        "{message}{exception}{extra[_text]}",
        "<red>x</red>",
        "%s%n",
    ),
]
PROGRAM = """
import json, logging, sys
from shared.logs import configure, log
configure(node="p1")
for text in json.loads(sys.argv[1]):
    log(said=text).info("heard")
    log().info("heard {}", text)
    logging.getLogger("library").warning("heard %s", text)
    try:
        raise ValueError(text)
    except ValueError as error:
        log(said=text).opt(exception=error).error("failed")
"""


def lines(*texts: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    *found, last = done.stderr.decode().split("\n")
    assert last == ""
    return found


def test_what_others_made_up_ends_no_line() -> None:
    found = lines(*TRICKS)
    assert len(found) == 4 * len(TRICKS)
    for line in found:
        assert LINE.match(line), repr(line)
        assert line.isprintable(), repr(line)


@pytest.mark.parametrize("text", TRICKS)
def test_it_can_be_read_what_it_was(text: str) -> None:
    said = re.search(r'said=("(?:[^"\\]|\\.)*"|\S+)', lines(text)[0])
    assert said is not None
    assert (json.loads(said[1]) if said[1].startswith('"') else said[1]) == text


def test_a_traceback_is_a_field() -> None:
    found = re.search(r'exception=("(?:[^"\\]|\\.)*")', lines("x")[3])
    assert found is not None
    told = json.loads(found[1])
    assert told.startswith("Traceback")
    assert told.endswith("ValueError: x\n")


def test_what_is_very_long_is_cut() -> None:
    assert all(len(line) < 25_000 for line in lines("x" * 100_000)[:3])
