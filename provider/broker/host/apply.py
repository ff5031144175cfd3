"""Makes this host's broker as `broker.json` wants it. As root; may be interrupted anywhere, is run again until done.

The file belongs to the daemon's user. It is opened without following links, read once, and never shown.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from provider.broker.host import lone
from provider.broker.host.anew import begin_anew
from provider.broker.host.commands import BrokerAway
from provider.broker.host.local import LocalBroker
from provider.broker.host.plan import AddReplica, CutOff, DropReplica, Forget, Join, Leave, Step, WakeReplica, next_step
from provider.broker.host.wanted import SIZE_MAX, STATUS, Wanted, parse
from shared.errors import BellwetherError, Invalid, Refused
from shared.files import write_atomically

PATIENCE_S = 30.0
"""How long a removed broker may take to leave by itself."""
STEPS_MAX = 100


def read_wanted(path: Path) -> Wanted | None:
    """None where there is no such file: then nothing is wanted. Raises `Invalid`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Invalid(f"{path} is not a file")
    with os.fdopen(descriptor, "rb") as file:
        return parse(file.read(SIZE_MAX + 1))


class Apply:
    """Blocking, for one thread."""

    def __init__(
        self, broker: LocalBroker, patience_s: float = PATIENCE_S, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._broker, self._patience_s, self._say = broker, patience_s, say

    def run(self, wanted: Wanted) -> None:
        """Raises a `BellwetherError` where it is not as wanted in the end: one plain sentence."""
        if wanted.own != self._broker.expected_node():
            raise Refused(
                f"this host's broker is {self._broker.expected_node()}, the cluster knows it as {wanted.own}: "
                "was the host renamed? Its name is part of its broker's"
            )
        if not wanted.member:
            self._broker.leave()
            return
        if wanted.anew is not None:
            begin_anew(self._broker, wanted, wanted.anew, self._say)
        if wanted.stream is not None:
            lone.go_on(self._broker, wanted.stream, self._say)
        self._broker.mend(alone=not wanted.others)
        # Names first: a broker that cannot start for want of them is helped by that alone.
        self._broker.know(wanted.brokers, wanted.own)
        assert wanted.cookie is not None  # noqa: S101 - `Wanted` sees to it
        self._broker.use_cookie(wanted.cookie)
        patient_until_s = time.monotonic() + self._patience_s
        for _ in range(STEPS_MAX):
            patient = time.monotonic() < patient_until_s
            step = next_step(wanted, self._broker.seen(), patient=patient)
            if step is None:
                return
            if not isinstance(step, str):
                self._do(wanted, step)
            elif not patient:
                raise BrokerAway(step)
            else:
                time.sleep(min(1.0, self._patience_s))
        raise BrokerAway("the brokers do not become as they are wanted; see their logs")

    def _do(self, wanted: Wanted, step: Step) -> None:
        broker = self._broker
        match step:
            case Leave():
                broker.leave()
            case Join():
                assert wanted.cookie is not None  # noqa: S101 - `Wanted` sees to it
                address = next(one.address for one in wanted.brokers if one.node == wanted.own)
                broker.join(wanted.brokers, wanted.cookie, address)
            case CutOff(node):
                broker.cut_off(node)
            case Forget(node):
                broker.forget(node)
            case DropReplica(stream, node):
                broker.drop_replica(stream, node)
            case AddReplica(stream):
                broker.ensure_replica(stream)
            case WakeReplica(stream, alone=False):
                broker.wake_replica(stream)
            case WakeReplica(stream, alone=True):
                lone.wake_log(broker, stream, self._say)


def apply_newest(read: Callable[[], Wanted | None], run: Callable[[Wanted], None]) -> Wanted | None:
    """Has `run` make it so until what is `read` afterwards is what was made: a path unit does not see what changes
    while the service runs that it has started. What was made in the end; None where nothing is wanted."""
    done, wanted = None, read()
    while wanted is not None and wanted != done:
        run(wanted)
        done, wanted = wanted, read()
    return done


def record(
    outcome: Callable[[], Wanted | None],
    path: Path = STATUS,
    software: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> None:
    """Does it, and writes down what became of it, and what `software` the broker is by then. Raises what `outcome`
    raises."""
    detail: str | None = None
    made: Wanted | None = None
    try:
        made = outcome()
    except BellwetherError as error:
        detail = error.detail
        raise
    finally:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        said: dict[str, Any] = {"problem": detail, "at": int(time.time()), "made": made.asked if made else None}
        said["broker"] = software()
        write_atomically(path, json.dumps(said) + "\n", mode=0o644)
