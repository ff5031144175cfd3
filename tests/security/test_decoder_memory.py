"""Invariant: the nastiest message that is read at all costs a moment and some 100 MB, not the process: each one is read
in a process of its own, so that what the parser takes outside of Python is counted too."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from provider.core import entries
from shared import messages as m

MEGABYTE = 1024 * 1024
ALLOWED_MB = 20 * m.MAX_BYTES / MEGABYTE + 10
ALLOWED_CPU_S = 5.0
PARTS = m.PARTS_MAX - 100
FIELDS = m.FIELDS_MAX - 100


def report(instances: str) -> bytes:
    head = {"v": 1, "type": "report", "id": "x", "sender": "db1", "epoch": 1, "at": "t"}
    body = {"revision": 1, "instances": "HERE"}
    return json.dumps(head | {"body": body}, separators=(",", ":")).replace('"HERE"', instances).encode()


def of_instance(field: str) -> bytes:
    return report(f'[{{"id":"a","engine":"m","state":"up",{field}}}]')


def many(piece: str, times: int = 10**9) -> str:
    return ",".join([piece] * min(times, (m.MAX_BYTES - 400) // (len(piece) + 1)))


def names(value: str, count: int) -> str:
    return ",".join(f'"{number:x}":{value}' for number in range(count))


def instances(piece: str, times: int = 10**9) -> bytes:
    return report("[" + many(piece, times) + "]")


INSTANCE, RESULT = '{"id":"a","engine":"m","state":"up"}', '{"name":"","version":1,"phase":"ready"}'
REPORTS: dict[str, Callable[[], bytes]] = {
    "numbers": lambda: instances("0"),
    "texts": lambda: instances('""'),
    "arrays": lambda: instances("[]", PARTS),
    "arrays with something": lambda: instances("[0]", PARTS),
    "objects": lambda: instances("{}", PARTS),
    "objects with something": lambda: instances('{"":0}', PARTS),
    "instances": lambda: instances(INSTANCE, FIELDS // 4),
    "results": lambda: of_instance('"database_results":[' + many(RESULT, FIELDS // 4) + "]"),
    "positions": lambda: of_instance('"positions":{' + names("0", FIELDS) + "}"),
    "unknown fields": lambda: of_instance(names("0", FIELDS)),
    "unknown fields of the envelope": lambda: report("[]").replace(b'"v":1', f'"v":1,{names("0", FIELDS)}'.encode()),
    "depth": lambda: report("[" * PARTS),
    "one text": lambda: report('"' + "\\u00e9" * (m.MAX_BYTES // 7) + '"'),
    "one number": lambda: report("9" * (m.MAX_BYTES - 400)),
}
MEASURE = """
import resource, sys, time
from shared import messages as m
m.decode(m.encode(m.Inquire(), sender="p1", epoch=1))
data = sys.stdin.buffer.read()
def used(): return resource.getrusage(resource.RUSAGE_SELF)
before = used()
try:
    m.decode(data)
    kind = "decoded"
except m.Undecodable as error:
    kind = error.kind
after = used()
print(kind, (after.ru_maxrss - before.ru_maxrss) / 1024, after.ru_utime - before.ru_utime)
"""


@pytest.mark.parametrize("what", REPORTS)
def test_a_message_costs_little_whatever_it_holds(what: str) -> None:
    data = REPORTS[what]()
    assert len(data) <= m.MAX_BYTES
    done = subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True, timeout=60)
    kind, peak_mb, cpu_s = done.stdout.split()
    assert kind in (b"malformed", b"not_json", b"decoded")
    assert float(peak_mb) < ALLOWED_MB
    assert float(cpu_s) < ALLOWED_CPU_S


def test_more_than_that_is_not_read() -> None:
    for data in (
        b" " * (m.MAX_BYTES + 1),
        instances("[]", m.PARTS_MAX + 1),
        of_instance(names("0", m.FIELDS_MAX)),
    ):
        with pytest.raises(m.Undecodable) as refused:
            m.decode(data)
        assert refused.value.kind == "too_large"


def test_what_ten_thousand_databases_and_accounts_need_is_read() -> None:
    seen = m.ObservedInstance(
        id="db1",
        engine="mariadb",
        state="up",
        databases=tuple(
            m.ObservedDatabase(name=f"customer_{n}", charset="utf8mb4", collation="utf8mb4_general_ci", size_bytes=n)
            for n in range(10_000)
        ),
        accounts=tuple(
            m.ObservedAccount(name=f"c{n}", host="%", grants=(m.Grant(database=f"c_{n}", privileges=("SELECT",)),))
            for n in range(10_000)
        ),
        database_results=tuple(m.Result(name=f"customer_{n}", version=n, phase="ready") for n in range(10_000)),
        account_results=tuple(m.Result(name=f"c{n}", version=n, phase="ready") for n in range(10_000)),
    )
    body = m.Report(revision=1, instances=(seen,))
    assert m.decode(m.encode(body, sender="db1", epoch=1))[1] == body


RECORD = {"type": "entry", "v": 1, "id": "e", "generation": "g", "epoch": 1, "seq": 2, "node": "p1", "at": 5}
RECORDS = {
    "commits": '{"principal":"a","action":"b","status":200}',
    "numbers": "0",
    "objects": "{}",
    "changes": '{"principal":"a","action":"b","status":200,"changes":[{"kind":"node","id":"a"}]}',
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_of_the_log_costs_little(what: str) -> None:
    """Only providers can write there; and a primary writes no more than half of this."""
    text = json.dumps(RECORD | {"commits": "HERE"}).replace('"HERE"', f"[{many(RECORDS[what])}]")
    tracemalloc.start()
    try:
        entries.decode(text.encode())
    except entries.Unreadable:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 25 * len(text) + 10 * MEGABYTE
