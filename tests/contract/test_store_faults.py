"""What every store promises when something dies, fills up or is in the way."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pymysql
import pytest
from localcluster.mariadb import MariaDB
from localcluster.ports import free_ports

from provider.store import Store, StoreAhead, StoreEmptied, StoreUnavailable, set_store_aside
from provider.store.connections import open_engine
from shared.errors import DiskFull
from tests.support.databases import new_database
from tests.support.disks import fill, small_disk
from tests.support.history import accept_values, genesis, position
from tests.support.stores import OpenStore

ROOT = Path(__file__).parents[2]


def test_a_process_killed_while_it_commits_leaves_effects_and_position_that_agree(
    open_store: OpenStore, store_url: str
) -> None:
    """Invariant: what was reported durable is there, all of it or nothing of a commit, and the next process goes on."""
    store = open_store()
    store.seed(genesis(), None)
    reported = 1
    for commits in (1, 40, 7, 90, 23):
        reported = commit_until_killed(store_url, commits)
        state, read = store.load()
        assert state.revision >= reported
        assert read == position(state.revision)
        rows = store.history(0, 10_000)
        assert [row.revision for row in rows] == list(range(2, state.revision + 1))
    assert reported > 160


def commit_until_killed(url: str, commits: int) -> int:
    """Let a process commit, `kill -9` it after that many. Returns the last revision that it reported."""
    command = [sys.executable, "-m", "tests.support.committing", url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        lines += process.stdout.readlines()  # reported before the signal, not yet read
    return int([line for line in lines if line.endswith("\n")][-1])


# ── SQLite ──


def test_a_full_disk_is_said_and_the_same_commit_succeeds_once_there_is_space(tmp_path: Path) -> None:
    """Invariant: a commit that failed has changed nothing; nothing that was durable is lost."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        store = Store(f"sqlite:///{disk / 'state.db'}")
        store.migrate()
        store.seed(genesis(), None)
        accepted = accept_values(genesis(), ["x" * 20_000] * 60)
        store.commit(accepted[:5], position(6))
        for round_ in range(5, 60, 11):
            fill(disk / "ballast")
            for _ in range(2):
                with pytest.raises(DiskFull, match="no space left"):
                    store.commit(accepted[round_ : round_ + 11], position(round_ + 12))
            loaded, read = store.load()
            assert loaded.digest == accepted[round_ - 1].state.digest
            assert read == position(loaded.revision)
            (disk / "ballast").unlink()
            store.commit(accepted[round_ : round_ + 11], position(round_ + 12))
        assert store.load()[0].digest == accepted[-1].state.digest
        store.close()


def test_a_store_that_is_opened_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        url = f"sqlite:///{disk / 'state.db'}"
        store = Store(url)
        store.migrate()
        store.seed(genesis(), None)
        store.close()
        fill(disk / "ballast")
        for name in ("state.db", "new.db"):
            store = Store(f"sqlite:///{disk / name}")
            with pytest.raises(DiskFull):
                store.migrate()
                store.load()
            store.close()
        (disk / "ballast").unlink()
        store = Store(url)
        assert store.load()[0].digest == genesis().digest
        store.close()


def test_a_locked_file_is_said_and_the_same_commit_succeeds_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(f"sqlite:///{path}", busy_s=0.05)
    store.migrate()
    store.seed(genesis(), None)
    accepted = accept_values(genesis(), "ab")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.commit(accepted, position(3))
    assert store.load()[0].digest == genesis().digest  # who only reads is not in the way of anybody
    other.execute("ROLLBACK")
    other.close()
    store.commit(accepted, position(3))
    assert store.load()[0].digest == accepted[-1].state.digest
    store.close()


def test_another_program_that_looks_and_leaves_takes_nothing_with_it(tmp_path: Path) -> None:
    """Invariant: whoever else opens and closes the file, what was committed stays. SQLite's locks belong to the
    process; a descriptor of the file that we ourselves close would drop them all, and then the other one, believing
    that it is the last to leave, deletes the WAL under our feet."""
    path = tmp_path / "state.db"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    store.seed(genesis(), None)
    accepted = accept_values(genesis(), "abc")
    store.commit(accepted[:1], position(2))
    assert len(store.history(0, 10)) == 1  # on a connection of its own, made now
    wal = path.with_name("state.db-wal").stat().st_ino
    look = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM meta').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", look, path], check=True)
    assert path.with_name("state.db-wal").stat().st_ino == wal
    store.commit(accepted[1:], position(4))
    after = Store(f"sqlite:///{path}")
    assert after.load()[0].digest == accepted[-1].state.digest
    after.close()
    store.close()


def test_each_commit_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    """A power cut cannot be had in a test; the settings on which SQLite promises it can."""
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL: the WAL is synced at each commit
    engine.dispose()


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    """They hold hashes of tokens and sealed passwords."""
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    store.seed(genesis(), None)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["state.db", "state.db-shm", "state.db-wal"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    store.close()


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'absent' / 'state.db'}")
    with pytest.raises(StoreUnavailable, match="absent"):
        store.migrate()


# ── MariaDB ──


@pytest.fixture
def on_mariadb(mariadb: MariaDB, new_mariadb_url: Callable[[], str]) -> Iterator[Store]:
    """A store with a genesis in it. The server runs again when the test has ended."""
    store = Store(new_mariadb_url())
    store.migrate()
    store.seed(genesis(), None)
    yield store
    store.close()
    mariadb.start()


def test_mariadb_killed_and_back(mariadb: MariaDB, on_mariadb: Store) -> None:
    """Invariant: what was committed before is there, and every call that failed succeeds when it is repeated."""
    accepted = accept_values(genesis(), "abc")
    on_mariadb.commit(accepted[:1], position(2))
    mariadb.kill()
    calls: list[Callable[[], object]] = [
        lambda: on_mariadb.commit(accepted[1:], position(4)),
        lambda: on_mariadb.commit([], position(5)),
        lambda: on_mariadb.history(0, 10),
        lambda: on_mariadb.prune_history(0),
        on_mariadb.load,
    ]
    for call in calls * 2:
        with pytest.raises(StoreUnavailable):
            call()
    mariadb.start()
    assert on_mariadb.load()[0].digest == accepted[0].state.digest
    for call in calls:
        call()
    loaded, read = on_mariadb.load()
    assert loaded.digest == accepted[-1].state.digest
    assert read == position(5)


def test_mariadb_restarted_while_nothing_was_asked_of_it_is_not_even_noticed(
    mariadb: MariaDB, on_mariadb: Store
) -> None:
    accepted = accept_values(genesis(), "abc")
    on_mariadb.commit(accepted[:1], position(2))
    assert len(on_mariadb.history(0, 10)) == 1
    mariadb.restart()
    on_mariadb.commit(accepted[1:2], position(3))
    mariadb.restart()
    assert len(on_mariadb.history(0, 10)) == 2
    on_mariadb.commit(accepted[2:], position(4))
    assert on_mariadb.load()[0].digest == accepted[-1].state.digest


def test_a_connection_cut_in_the_middle_of_a_commit(mariadb: MariaDB, on_mariadb: Store) -> None:
    """The server rolls back what it had; the repetition, which the store does by itself, does all of it."""
    accepted = accept_values(genesis(), "abc")
    on_mariadb.commit(accepted[:1], position(2))
    with pymysql.connect(unix_socket=str(mariadb.socket), user=mariadb.user) as admin, admin.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db IS NOT NULL")
        for (id_,) in cursor.fetchall():
            cursor.execute(f"KILL {int(id_)}")
    on_mariadb.commit(accepted[1:], position(4))
    assert on_mariadb.load()[0].digest == accepted[-1].state.digest


def test_a_server_that_hangs_is_not_waited_for_long(mariadb: MariaDB, new_mariadb_url: Callable[[], str]) -> None:
    """The engine stands still in a commit: it is not tried again with what hangs, and later it is all there."""
    accepted = accept_values(genesis(), "abc")
    hasty = Store(new_mariadb_url(), commit_s=0.3)
    hasty.migrate()
    hasty.seed(genesis(), None)
    hasty.commit(accepted[:1], position(2))
    os.kill(mariadb.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            began_s = time.monotonic()
            with pytest.raises(StoreUnavailable):
                hasty.commit(accepted[1:], position(4))
            assert time.monotonic() - began_s < 5
    finally:
        os.kill(mariadb.pid, signal.SIGCONT)
    while True:
        with suppress(StoreUnavailable):
            hasty.commit(accepted[1:], position(4))
            break
    assert hasty.load()[0].digest == accepted[-1].state.digest
    hasty.close()


def test_tables_are_set_aside_all_of_them_or_none(
    new_mariadb_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_mariadb_url()
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101T000000Z")
    with closing(Store(url)) as store:
        store.migrate()
        store.seed(genesis(), None)
        engine = open_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE history_torn_20260101t000000z (x INT)")  # one cannot be renamed
        with pytest.raises(StoreUnavailable):
            set_store_aside(url)
        assert store.load()[0].digest == genesis().digest
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE history_torn_20260101t000000z")
        engine.dispose()
        accepted = accept_values(genesis(), "ab")
        with closing(Store(url)) as running:  # another node, which shares it
            running.commit(accepted[:1], position(2))
            set_store_aside(url)
            with pytest.raises(StoreEmptied):
                running.commit(accepted[1:], position(3))
            store.migrate()
            assert not store.exists()
            assert running.write_back(accepted[0].state, position(2))
            with pytest.raises(StoreAhead):
                store.seed(genesis(), None, over=(0, 0))
            running.commit(accepted[1:], position(3))
        assert store.load()[0].digest == accepted[-1].state.digest


def test_a_full_disk_under_mariadb_is_said_and_the_same_commit_succeeds_once_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "240m") as disk:
        server = MariaDB(disk / "server", free_ports(1)[0])
        server.start()
        store = Store(new_database(server, "store"))
        try:
            store.migrate()
            store.seed(genesis(), None)
            accepted = accept_values(genesis(), ["x" * 200_000] * 40)
            store.commit(accepted[:2], position(3))
            fill(disk / "ballast")
            with pytest.raises(DiskFull, match="no space left"):
                store.commit(accepted[2:], position(41))
            (disk / "ballast").unlink()
            assert store.load()[0].digest == accepted[1].state.digest
            store.commit(accepted[2:], position(41))
            assert store.load()[0].digest == accepted[-1].state.digest
        finally:
            store.close()
            server.kill()


def test_a_wrong_password_is_said_but_not_shown(new_mariadb_url: Callable[[], str]) -> None:
    store = Store(new_mariadb_url().replace("s3cret", "wr0ng"))
    with pytest.raises(StoreUnavailable, match="Access denied") as caught:
        store.load()
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))
