"""Invariant: a cluster is not founded on top of another one's state."""

from contextlib import closing
from pathlib import Path

import pytest

from provider.founding import Place, init
from shared.errors import Refused
from tests.support.history import accept_values, position

BROKER = {"endpoints": ["amqps://127.0.0.1:1"], "management": "https://127.0.0.1:1"}
ADMIN = ("operator", "first")


def place(directory: Path, name: str, database: Path) -> Place:
    found = Place(directory / name / "provider.toml", name, "https://127.0.0.1:1", store_url=f"sqlite:///{database}")
    found.config.parent.mkdir(mode=0o700)
    return found


def test_a_database_that_a_cluster_uses_is_left_to_it(tmp_path: Path) -> None:
    database = tmp_path / "shared.db"
    p1 = place(tmp_path, "p1", database)
    init(p1, BROKER, ADMIN)
    with closing(p1.open_store()) as store:
        state, _ = store.load()
        store.commit(accept_values(state, ["x"]), position(2))
    p2 = place(tmp_path, "p2", database)
    with pytest.raises(Refused, match="holds the state of a cluster"):
        init(p2, BROKER, ADMIN)
    assert not p2.files.certificate.exists()
    with closing(p1.open_store()) as store:
        assert store.load()[0].revision == 2


def test_what_an_interrupted_init_has_left_is_no_hindrance(tmp_path: Path) -> None:
    p1 = place(tmp_path, "p1", tmp_path / "state.db")
    init(p1, BROKER, ADMIN)
    p1.config.unlink()
    init(p1, BROKER, ADMIN)
    assert p1.config.exists()
