"""A cluster as `provider init` makes it, without any process; its backup; and the fixture of the file's format.

`python -m tests.support.backups FILE`, once for each format, writes FILE as this version does. Its key is
fixtures/backup.key, which opens nothing else.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from provider.backup.content import Content
from provider.backup.directory import Directory
from provider.backup.making import Made, make
from provider.backup.recovery import Closing, RecoveryKey
from provider.core import commands as c
from provider.core import documents as d
from provider.core.entries import Change
from provider.core.state import State
from provider.founding import Place, init
from provider.settings import load_settings, set_apart
from provider.trust.vault import Vault, data_keys
from shared.passwords import broker_password_hash
from tests.support.history import accept_entry, commit_of

BROKER = {"endpoints": ["amqps://127.0.0.1:1"], "management": "https://127.0.0.1:2"}
ADMIN = ("boss", "the broker's administrator")
FIXTURES = Path(__file__).parents[1] / "fixtures"


def place(directory: Path, name: str = "p1") -> Place:
    return Place(directory / "provider.toml", name, "https://127.0.0.1:3")


def founded(directory: Path, name: str = "p1") -> State:
    """The state of a new cluster whose first node's files are in `directory`."""
    where = place(directory, name)
    init(where, BROKER, ADMIN)
    with closing(where.open_store()) as store:
        return store.load()[0]


def vault_of(directory: Path, state: State, name: str = "p1") -> Vault:
    private = place(directory).files.secrets_key.read_text()
    return Vault(data_keys(state.of("key"), name, private))


def content_of(directory: Path, state: State) -> Content:
    vault = vault_of(directory, state)
    keys = {document.id: vault.key(document.id) for document in state.of("key")}
    return Content(state, keys, set_apart(load_settings(place(directory).config)))


def backed_up(directory: Path, state: State, closing_: Closing, to: Path) -> Made:
    return make(content_of(directory, state), "p1", [closing_], Directory(to))


def with_agent(state: State) -> State:
    """An agent with its instance `db1`."""
    spec = d.AgentSpec(token_sha256="0" * 64, broker_password_hash=broker_password_hash("x"))
    instance = d.InstanceSpec(agent="db1", engine="mariadb", host="127.0.0.1", port=3306)
    return changed(state, c.put("agent", "db1", spec), c.put("instance", "db1", instance))


def with_wish(state: State, name: str, phase: str = "ready", *, seal: Callable[[str, str], str] | None = None) -> State:
    """A database, or with `seal` an account with a password, as its agent has made it."""
    status = d.WishStatus.model_validate({"phase": phase})
    if seal is None:
        return changed(state, c.put("database", f"db1/{name}", d.DatabaseSpec(charset="utf8mb4"), status))
    spec = d.AccountSpec(password=seal("a password", f"db1/{name}"))
    return changed(state, c.put("account", f"db1/{name}", spec, status))


def changed(state: State, *changes: Change) -> State:
    return accept_entry(state, commit_of(*changes)).state


def main(file: Path) -> None:
    key = FIXTURES / "backup.key"
    if not key.exists():
        key.write_text(RecoveryKey.new().text() + "\n")
    with tempfile.TemporaryDirectory() as directory:
        state = founded(Path(directory) / "p1")
        vault = vault_of(Path(directory) / "p1", state)
        state = with_wish(with_wish(with_agent(state), "shop"), "app", seal=vault.seal)
        half = RecoveryKey.parse(key.read_text()).clusters_half
        made = backed_up(Path(directory) / "p1", state, half, Path(directory))
        file.write_bytes(Path(made.where).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
