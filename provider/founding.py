"""Making a provider: the first of a cluster (`provider init`), or one more (`provider join`)."""

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from provider import pki
from provider.backfill import fetch_history
from provider.client import Client
from provider.core import commands as c
from provider.core import documents as d
from provider.core.entries import Change
from provider.core.state import State
from provider.secrets import Vault
from provider.settings import ApiSettings, BrokerSettings, Files, ProviderSettings, host_of, port_of, to_toml
from provider.snapshot import read_snapshot
from provider.store import Store, with_password
from shared.errors import Invalid, Refused
from shared.files import make_private_directory, write_atomically
from shared.tls import client_context, fingerprint, unverified_context
from shared.tokens import Token, new_token, parse_token
from shared.version import VERSION


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new provider is to be: its configuration file, name, address and store."""

    config: Path
    name: str
    url: str
    listen: str | None = None
    store_url: str | None = None
    store_password: str | None = None

    @property
    def files(self) -> Files:
        return Files(self.config)

    @property
    def data_dir(self) -> Path:
        return self.config.parent.absolute() / "data"

    @property
    def database(self) -> str:
        return self.store_url or f"sqlite:///{self.data_dir / 'state.db'}"

    def settings(self, broker: dict[str, Any]) -> ProviderSettings:
        """Raises `Invalid`."""
        try:
            return ProviderSettings(
                name=self.name,
                url=self.url,
                data_dir=self.data_dir,
                store_url=self.database,
                broker=BrokerSettings.model_validate(broker),
                api=ApiSettings(listen=self.listen or f"{host_of(self.url)}:{port_of(self.url)}"),
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise Invalid(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None

    def open_store(self) -> Store:
        """The store, with its tables; to be closed. Raises a `BellwetherError`, or `OSError`."""
        make_private_directory(self.data_dir)
        password = self.store_password
        store = Store(self.database if password is None else with_password(self.database, password))
        try:
            store.migrate()
        except BaseException:
            store.close()
            raise
        return store

    def must_be_new(self) -> None:
        """Raises `Refused` where there is a provider already."""
        if self.config.exists():
            raise Refused(f"{self.config} exists: this host is a provider already")

    def hosts(self) -> tuple[str, ...]:
        """Names and addresses that the node's certificate is for."""
        return (host_of(self.url), "localhost", "127.0.0.1")


def init(place: Place, broker: dict[str, Any], broker_password: str) -> str:
    """Makes a cluster of one node: authority, keys, configuration, store. The administrator's token.

    Needs no running broker. The configuration is written last: while it is not there, nothing is.
    """
    place.must_be_new()
    settings, files = place.settings(broker), place.files
    ca, ca_key = pki.new_ca(f"Bellwether {uuid4().hex[:8]}")
    key = pki.new_key()
    certificate = pki.sign(pki.new_request(key, place.name, place.hosts()), place.name, ca, ca_key)
    node_token = Token("node", place.name, new_token("node").secret)
    admin = new_token("admin")
    write_atomically(files.ca, ca, mode=0o644)
    write_atomically(files.certificate, certificate, mode=0o644)
    _write_secrets(files, ca_key, key, Vault.new_key(), node_token.text(), broker_password)
    node = d.NodeSpec(
        url=place.url, endpoints=settings.broker.endpoints, version=VERSION, token_sha256=node_token.hashed
    )
    state = State.genesis(
        generation=uuid4().hex[:16],
        primary=place.name,
        now=int(time.time() * 1000),
        changes=(
            c.put("node", place.name, node),
            c.put("token", admin.id, _first(admin)),
            Change(kind="setting", id=c.CLUSTER_ID, spec={"value": str(uuid4())}),
            Change(kind="setting", id=c.LOG_SIZES, spec={"value": dict(c.LOG_SIZES_DEFAULT)}),
        ),
    )
    _write_store_password(place)
    _seed(place, state, None)
    write_atomically(files.config, to_toml(settings))
    return admin.text()


def join(place: Place, url: str, token_text: str, broker_overrides: dict[str, Any]) -> ProviderSettings:
    """Makes this host a standby of the cluster at `url`. Raises a `BellwetherError`.

    The token's fingerprint says which authority to trust, before anything is sent.
    """
    place.must_be_new()
    token = parse_token(token_text)
    if token.role != "node" or token.fingerprint is None:
        raise Invalid("this is no token for a node: make one with `provider token create --role node`")
    files = place.files
    ca = trusted_ca(url, token.fingerprint)
    write_atomically(files.ca, ca, mode=0o644)
    place.open_store().close()  # what cannot work here is found before token and name are used up
    key = pki.new_key()
    client = Client([url], token=token_text.strip(), tls=client_context(files.ca))
    body: dict[str, Any] = {
        "name": place.name,
        "url": place.url,
        "version": VERSION,
        "csr": pki.new_request(key, place.name, place.hosts()),
    }
    if "endpoints" in broker_overrides:
        body["endpoints"] = broker_overrides["endpoints"]
    given = client.request("POST", "/join", body)
    broker = {**given["broker"], **broker_overrides}
    broker_password = broker.pop("password")
    settings = place.settings(broker)
    write_atomically(files.certificate, given["certificate"], mode=0o644)
    _write_secrets(files, given["ca_key"], key, given["secrets_key"], given["node_token"], broker_password)
    member = Client([url], token=given["node_token"], tls=client_context(files.ca))
    state, position = read_snapshot(member.lines("GET", "/snapshot"))
    _write_store_password(place)
    _seed(place, state, position, lambda until: member.lines("GET", f"/history?until={until}"))
    write_atomically(files.config, to_toml(settings))
    return settings


def trusted_ca(url: str, expected: str) -> str:
    """The authority's certificate at `url`. Raises `Refused` unless its fingerprint is the expected one."""
    ca = Client([url], token=None, tls=unverified_context()).text("/ca")
    try:
        found = fingerprint(ca)
    except ValueError:
        raise Refused(f"{url} does not answer like a provider") from None
    if found != expected:
        raise Refused(f"{url} is not of the cluster that this token is for: its certificate authority is another one")
    return ca


def _seed(place: Place, state: State, position: Any, history: Callable[[int], Iterable[str]] | None = None) -> None:
    with closing(place.open_store()) as store:
        store.seed(state, position)
        if history is not None:
            fetch_history(store, history, state.revision)


def _write_store_password(place: Place) -> None:
    if place.store_password is not None:
        write_atomically(place.files.store_password, place.store_password + "\n")


def _write_secrets(
    files: Files, ca_key: str, key: str, secrets_key: str, node_token: str, broker_password: str
) -> None:
    write_atomically(files.ca_key, ca_key)
    write_atomically(files.key, key)
    write_atomically(files.secrets_key, secrets_key)
    write_atomically(files.node_token, node_token)
    write_atomically(files.broker_password, broker_password)


def _first(admin: Token) -> d.TokenSpec:
    """The administrator's first token is marked: only it can be issued anew with root on a provider alone."""
    return d.TokenSpec(role="admin", sha256=admin.hashed, expires_at=None, administrator=True)
