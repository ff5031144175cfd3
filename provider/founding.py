"""Making the first provider of a cluster: `provider init`. One more is made by `provider.joining`."""

import socket
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from provider.address import is_here
from provider.broker.users import node_user
from provider.core import commands as c
from provider.core import documents as d
from provider.core.entries import Change
from provider.core.state import State
from provider.settings import (
    DEFAULT_CONFIG,
    ApiSettings,
    BrokerSettings,
    Files,
    ProviderSettings,
    certificate_hosts,
    host_of,
    port_of,
    to_toml,
)
from provider.store import Store, split_password, with_password
from provider.trust import pki
from provider.trust.authorities import bundle, checked_authority
from provider.trust.membership import Membership, sealed_cookie
from provider.trust.vault import Vault, new_data_key, new_private_key, public_key
from shared.errors import Invalid, Refused
from shared.files import make_private_directory, write_atomically
from shared.passwords import broker_password_hash
from shared.tokens import Token, new_token
from shared.validation import problems
from shared.version import VERSION

INSTALLED_DATA = Path("/var/lib/bellwether")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _can_listen(listening: str) -> None:
    """Raises `Invalid` for what is not address:port, `Refused` where it is not this host's."""
    host, colon, port = listening.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise Invalid(f"{listening!r} is nothing to listen on: address:port is expected, or :port for every address")
    host = host.strip("[]")
    try:
        socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise Refused(f"this host cannot listen on {listening}: it does not know {host!r}") from None
    if _is_address(host) and not is_here(host):
        raise Refused(f"this host cannot listen on {listening}: {host} is not its address. See --url and --listen")


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
        """`data/` beside the configuration; where that is installed, what the system has for data."""
        directory = self.config.parent.absolute()
        return INSTALLED_DATA if directory == DEFAULT_CONFIG.parent else directory / "data"

    @property
    def database(self) -> str:
        return self.store_url or f"sqlite:///{self.data_dir / 'state.db'}"

    @property
    def listening(self) -> str:
        """address:port. Where the URL has a name, every interface: the name may be a load balancer's, may mean
        127.0.1.1 on its own host (Debian's installer says so), and another address after the next boot."""
        host, port = host_of(self.url), port_of(self.url)
        return self.listen or (f"{host}:{port}" if host == "localhost" or _is_address(host) else f":{port}")

    def settings(self, broker: dict[str, Any], api: Mapping[str, Any] | None = None, **more: Any) -> ProviderSettings:
        """`api` and `more` are tables and settings that are not at their defaults. Raises `Invalid`."""
        try:
            return ProviderSettings(
                name=self.name,
                url=self.url,
                data_dir=self.data_dir,
                store_url=self.database,
                broker=BrokerSettings.model_validate(broker),
                api=ApiSettings.model_validate({"listen": self.listening, **(api or {})}),
                **more,
            )
        except ValidationError as error:
            raise Invalid(problems(error)) from None

    def check(self, broker: Mapping[str, Any] | None = None, named: Mapping[str, Any] | None = None) -> None:
        """All that can be told of the configuration before it is written. Changes nothing. `broker`: what is known of
        its settings, `named` the other tables. Raises `Invalid`; `Refused` where this host cannot listen there."""
        _can_listen(self.listening)
        more = dict(named or {})
        told = {"endpoints": ["amqps://localhost:5671"], **more.pop("broker", {}), **(broker or {})}
        self.settings({**told, "username": node_user(self.name)}, api=more.pop("api", {}), **more)

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
            raise Refused(
                f"{self.config} exists: this host is a provider already. If its node was removed from the cluster, and "
                f"this host is to become another one: {self._clearing} (docs/MEMBERS.md)"
            )

    @property
    def _clearing(self) -> str:
        if self.config.absolute() != DEFAULT_CONFIG:
            return f"end it, and take away what it left in {self.config.parent.absolute()}"
        return f"systemctl stop bellwether-provider && rm -r {self.config.parent}/* {self.data_dir}/*"

    def must_hold_nothing(self) -> None:
        """Raises `Refused` where the store holds the state of a cluster that was used: others of it may live. What an
        interrupted `init` left was not."""
        with closing(self.open_store()) as store:
            reached = store.reached()
        if reached is not None and reached[2] > 1:
            shown, _ = split_password(self.database)
            raise Refused(
                f"{shown} holds the state of a cluster (revision {reached[2]}): give another database, or "
                "`provider join` that cluster"
            )


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a node makes for itself. Others are told hashes, public keys and a signing request only."""

    key: str
    """Of its certificate, PEM."""
    secrets_key: str
    token: Token
    broker_password: str

    @classmethod
    def new(cls, name: str) -> "Secrets":
        token = Token("node", name, new_token("node").secret)
        return cls(pki.new_key(), new_private_key(), token, new_token("node").secret)

    def as_node(
        self,
        settings: ProviderSettings,
        certificate: d.CertificateSpec,
        broker: d.BrokerNode | None,
        *,
        managed: bool,
    ) -> d.NodeSpec:
        """The node that holds them, as the state knows it. `managed`: its broker user is made by providers."""
        return d.NodeSpec(
            url=settings.url,
            endpoints=settings.broker.endpoints,
            version=VERSION,
            token_sha256=self.token.hashed,
            public_key=public_key(self.secrets_key),
            broker_password_hash=broker_password_hash(self.broker_password) if managed else None,
            broker=broker,
            certificates=(certificate,),
        )

    def write(self, files: Files) -> None:
        write_atomically(files.key, self.key)
        write_atomically(files.secrets_key, self.secrets_key)
        write_atomically(files.node_token, self.token.text())
        write_atomically(files.broker_password, self.broker_password)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, PEM."""

    certificate: str
    key: str

    @classmethod
    def new(cls) -> "Authority":
        return cls(*pki.new_ca())


def init(
    place: Place,
    broker: dict[str, Any],
    broker_admin: tuple[str, str],
    authority: Authority | None = None,
    own_broker: tuple[d.BrokerNode, str] | None = None,
    log_sizes: Mapping[str, int] | None = None,
) -> str:
    """Makes a cluster of one node: authority (a new one, unless one is brought), keys, configuration, store. The
    administrator's token.

    `broker_admin` is name and password of a user who may administer the broker's users. Where the broker has no
    management address, nobody can make users there, and this node uses that one for everything. Needs no running
    broker, but where `own_broker` tells of one on this host that Bellwether administers: what it is, and its Erlang
    cookie. The configuration is written last: while it is not there, nothing is.
    """
    place.must_be_new()
    place.check(broker)
    place.must_hold_nothing()
    authority = authority or Authority.new()
    authority_id, trusted = checked_authority(authority.certificate, authority.key, certificate_hosts(place.url))
    own = Secrets.new(place.name)
    managed = broker.get("management") is not None
    if not managed:
        own = replace(own, broker_password=broker_admin[1])
    settings = place.settings({**broker, "username": node_user(place.name) if managed else broker_admin[0]})
    vault = Vault({"k1": new_data_key()})
    membership = Membership(settings, place.files, vault)
    signed = membership.authority(trusted, authority.key, authority_id, signs=True)
    credential = d.CredentialSpec(username=broker_admin[0], passwords=(vault.seal(broker_admin[1], c.BROKER_ADMIN),))
    wrapped = vault.wrapped_for(public_key(own.secrets_key))
    admin = new_token("admin")
    founding = (
        c.put("authority", authority_id, signed),
        c.put("key", "k1", d.KeySpec(wrapped={place.name: wrapped["k1"]})),
        *((c.put("credential", c.BROKER_ADMIN, credential),) if managed else ()),
        *((c.put("credential", c.BROKER_COOKIE, sealed_cookie(vault, own_broker[1])),) if own_broker else ()),
        c.put("token", admin.id, _first(admin)),
        Change(kind="setting", id=c.CLUSTER_ID, spec={"value": str(uuid4())}),
        Change(kind="setting", id=c.LOG_SIZES, spec={"value": {**c.LOG_SIZES_DEFAULT, **(log_sizes or {})}}),
    )
    generation, now = uuid4().hex[:16], int(time.time() * 1000)
    trusting = State.genesis(generation=generation, primary=place.name, now=now, changes=founding)
    request, among_brokers = pki.new_request(own.key, place.name), own_broker[0].host if own_broker else None
    certificate, given = membership.sign(trusting, request, place.name, place.url, among_brokers)
    node = own.as_node(settings, given, own_broker[0] if own_broker else None, managed=managed)
    changes = (c.put("node", place.name, node), *founding)
    state = State.genesis(generation=generation, primary=place.name, now=now, changes=changes)
    write_atomically(place.files.ca, bundle(state), mode=0o644)
    write_atomically(place.files.certificate, certificate, mode=0o644)
    own.write(place.files)
    write_store_password(place)
    with closing(place.open_store()) as store:
        store.seed(state, None)
    write_atomically(place.files.config, to_toml(settings))
    return admin.text()


def write_store_password(place: Place) -> None:
    """The store's password, where the daemon looks for it."""
    if place.store_password is not None:
        write_atomically(place.files.store_password, place.store_password + "\n")


def _first(admin: Token) -> d.TokenSpec:
    """The administrator's first token is marked: only it can be issued anew with root on a provider alone."""
    return d.TokenSpec(role="admin", sha256=admin.hashed, expires_at=None, administrator=True)
