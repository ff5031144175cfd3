"""How a daemon is started under test: `python -m tests.faults.child provider run --config F`, or `agent run …`.

It is the real program, with a clock that can be set (providers), with a record of what it obeyed (agents), and where a
test of the checker asks for it, with one rule broken. What the environment says:

    BELLWETHER_FAULTS_CLOCK     file of eight bytes: nanoseconds by which the clock is wrong, little-endian, signed
    BELLWETHER_FAULTS_OBEYED    file to which a line is added for each message that was obeyed
    BELLWETHER_FAULTS_GROUP     control group that it is in from its start, so that its links can be told from others'
    BELLWETHER_FAULTS_VARIANT   the rule that is broken: a name of tests.faults.variants
"""

import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLOCK, OBEYED = "BELLWETHER_FAULTS_CLOCK", "BELLWETHER_FAULTS_OBEYED"
GROUP, VARIANT = "BELLWETHER_FAULTS_GROUP", "BELLWETHER_FAULTS_VARIANT"


def main() -> None:
    program = sys.argv[1]
    sys.argv = [program, *sys.argv[2:]]
    if GROUP in os.environ:
        (Path(os.environ[GROUP]) / "cgroup.procs").write_text("0")  # whoever writes this
    if CLOCK in os.environ:
        set_clock(Path(os.environ[CLOCK]))
    if OBEYED in os.environ:
        record_obedience(Path(os.environ[OBEYED]))
    if VARIANT in os.environ:
        from tests.faults.variants import VARIANTS

        VARIANTS[os.environ[VARIANT]].apply()
    if program == "provider":
        from provider.cli.node import main as run
    else:
        from agent.cli import main as run
    run()


def set_clock(file: Path) -> None:
    """From now on the time of day is wrong by what the file says, whenever it is asked for."""
    with file.open("r+b") as opened:
        wrong = mmap.mmap(opened.fileno(), 8)
    right = time.time_ns
    offset: Callable[[], int] = lambda: struct.unpack("<q", wrong[:8])[0]  # noqa: E731
    time.time_ns = lambda: right() + offset()
    time.time = lambda: (right() + offset()) / 1e9


def record_obedience(file: Path) -> None:
    """A line for each message of a primary that made the agent do something."""
    from agent.session import Connect, Fulfil, MakePassword, Session, Store, UsePassword
    from shared.messages import Undecodable, decode

    acts = (Fulfil, Store, Connect, MakePassword, UsePassword)
    original = Session.message
    out = file.open("a", buffering=1)

    def message(self: Session, data: bytes, **origin: Any) -> list[Any]:
        instructions = original(self, data, **origin)
        if any(isinstance(one, acts) for one in instructions):
            try:
                envelope, _ = decode(data)
            except Undecodable:
                return instructions
            said = {"at_s": time.monotonic(), "epoch": envelope.epoch, "type": envelope.type}
            out.write(json.dumps(said) + "\n")
        return instructions

    Session.message = message  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
