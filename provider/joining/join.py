"""The steps by which a host becomes a standby. Each may be interrupted and done again: what it finds done it leaves,
and what the cluster was told the first time it is told again, with the same keys."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from provider.backfill import fetch_history
from provider.broker.host.handshake import NotLetIn
from provider.broker.users import node_user
from provider.client import Client, Problem, may_help
from provider.concerns import broker_users
from provider.core.commands import CLUSTER_ID, need, removed_while_joining
from provider.core.documents import BrokerNode
from provider.core.state import State
from provider.founding import Place, write_store_password
from provider.joining.journal import Journal, begin, begun
from provider.joining.meeting import clock_skew_s, join_token, trusted_ca
from provider.joining.patience import patiently
from provider.joining.steps import Steps
from provider.recovery.members import resumed
from provider.settings import COMMON, ProviderSettings, load_settings, nested, to_toml
from provider.snapshot import read_snapshot
from provider.store import Store, split_password
from provider.trust import pki
from provider.trust.authorities import authority_id
from provider.trust.vault import Vault, data_keys, public_key
from shared.errors import Invalid, Refused, Unauthenticated
from shared.files import locked, make_private_directory, write_atomically
from shared.tls import client_context
from shared.version import VERSION

ASK_S = 60.0
"""How long a cluster may be without a primary or a log before a newcomer gives up."""
COOKIE_S = 30.0
"""How long its brokers may take to have the cookie that is in its state."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is said of the new node; what is not said of its settings is taken over from the cluster."""

    endpoints: Sequence[str] = ()
    """Of its own broker."""
    management: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Some of `provider.settings.configuration`, which have to be those of the cluster."""

    @property
    def broker(self) -> dict[str, Any]:
        """What is said of how it reaches its broker."""
        found = {"endpoints": list(self.endpoints), "management": self.management}
        return {name: value for name, value in found.items() if value}

    def check(self) -> None:
        """Raises `Invalid` for a setting that is one host's own affair, or none at all."""
        for name in self.settings:
            if name not in COMMON:
                raise Invalid(f"{name}: not one of the settings that all nodes share: {', '.join(sorted(COMMON))}")


class OwnBroker(Protocol):
    """The RabbitMQ on this host, if it is to be one of the cluster's. Blocking; may raise any `BellwetherError`."""

    def look(self, url: str) -> BrokerNode:
        """What it is. Changes nothing; `url`: a provider, towards which this host's address is told."""

    def join(self, state: State, name: str, vault: Vault) -> str:
        """Makes it one of the cluster's: what was done, in words. Raises `NotLetIn` where another cookie may help."""

    def replicate(self, generation: str) -> str:
        """Has it hold a copy of the log: what was done, in words."""


class Service(Protocol):
    """What runs the daemon on this host."""

    def must_rest(self) -> None:
        """Raises `Refused` where one runs: that of a node which was here before, since this host is none yet."""

    def start(self) -> str:
        """Starts it, and sees that it is started after each boot: what was done, in words."""

    def wait_standby(self, settings: ProviderSettings) -> str:
        """Waits until it is a standby that has caught up: at which revision, in words."""


@dataclass(frozen=True, slots=True)
class Host:
    """What `provider join` finds on a host; None: it does without."""

    broker: OwnBroker | None = None
    service: Service | None = None


def join(
    place: Place,
    url: str,
    token_text: str,
    wishes: Wishes | None = None,
    *,
    steps: Steps | None = None,
    host: Host | None = None,
) -> ProviderSettings:
    """Makes this host a standby of the cluster at `url`. Raises a `BellwetherError`.

    The token's fingerprint says which authority to trust, before anything is sent. No secret is: this node makes its
    own, and can open the data keys in the state that it gets since they were wrapped for it. The configuration is
    written last but for the start of the daemon: while it is not there, nothing is.
    """
    steps, host, wishes = steps or Steps(), host or Host(), wishes or Wishes()
    wishes.check()
    journal = begun(place.files.join)
    if place.config.exists() and (journal is None or journal.name != place.name):
        place.must_be_new()
    if not place.config.exists():
        place.check(wishes.broker, nested(wishes.settings))
        if host.service is not None:
            host.service.must_rest()
        _become(place, url, token_text, wishes, steps, host.broker)
    settings = load_settings(place.config)
    if host.service is not None:
        steps.done("start", host.service.start())
        steps.done("follow", host.service.wait_standby(settings))
    place.files.join.unlink(missing_ok=True)
    return settings


def _become(place: Place, url: str, token_text: str, wishes: Wishes, steps: Steps, broker: OwnBroker | None) -> None:
    token = join_token(token_text)
    ca, skew_s = trusted_ca(url, token.fingerprint or ""), clock_skew_s(url)
    own_broker = broker.look(url) if broker is not None else None
    make_private_directory(place.data_dir)
    with locked(place.data_dir / "join.lock", f"another `provider join` works on {place.data_dir}"):
        write_atomically(place.files.ca, ca, mode=0o644)
        with _nobody_else(place):  # what cannot work here is found before token and name are used up
            _check_store(place, ca)
        found = f", {own_broker.node} runs {own_broker.version}" if own_broker is not None else ""
        steps.done("check", f"the token is this cluster's, clock {skew_s:+.2f} s, the store is writable{found}")
        journal = _journal(place, steps)
        admission = Admission(place, url, token_text.strip(), journal)
        given = admission.ask(_request(place, journal, wishes, own_broker, skew_s), steps)
        settings = admission.take(given, wishes, own_broker)
        steps.done("member", f"{place.name} is a member since revision {given['revision']}; its files are written")
        with _nobody_else(place):
            state = admission.fetch(given["revision"])
        if (unable := broker_users(state, place.name, settings.broker.management)) is not None:
            steps.note(unable)
        steps.done("snapshot", f"revision {state.revision}, {_count(state)} documents, and the history before it")
        if broker is not None and own_broker is not None and given["own_broker"]:
            steps.done("broker", among_brokers(broker, admission, state, steps))
            steps.done("replica", broker.replicate(state.generation))
        elif own_broker is not None:
            steps.done("broker", f"{own_broker.node} is left alone: no member's broker is Bellwether's to administer")
        write_atomically(place.config, to_toml(settings))
        steps.done("config", f"{place.config} is written")


def _nobody_else(place: Place) -> AbstractContextManager[None]:
    """Raises `Refused` where a provider runs on the same data."""
    return locked(place.data_dir / "lock", f"another provider runs on {place.data_dir}: end it first")


def _journal(place: Place, steps: Steps) -> Journal:
    found = begun(place.files.join)
    if found is not None and found.name == place.name:
        steps.done("secrets", f"those of the join that was begun at {found.began_at}")
        return found
    if found is not None:
        steps.note(f"the join as {found.name} is given up: DELETE /nodes/{found.name}, where that is a member")
    made = begin(place.files.join, place.name)
    steps.done("secrets", f"made and stored in {place.files.join}")
    return made


def _request(
    place: Place, journal: Journal, wishes: Wishes, own_broker: BrokerNode | None, skew_s: float
) -> dict[str, Any]:
    own = journal.secrets
    body: dict[str, Any] = {
        "name": place.name,
        "url": place.url,
        "version": VERSION,
        "csr": pki.new_request(own.key, place.name),
        "public_key": public_key(own.secrets_key),
        "token_sha256": own.token.hashed,
        "broker_password_hash": journal.broker_password_hash,
        "settings": dict(wishes.settings),
        "clock_skew_s": round(skew_s, 3),
    }
    if wishes.endpoints:
        body["endpoints"] = list(wishes.endpoints)
    if wishes.labels:
        body["labels"] = dict(wishes.labels)
    if own_broker is not None:
        body["broker"] = own_broker.model_dump(mode="json")
    return body


@dataclass(frozen=True, slots=True)
class Admission:
    """What this host asks of the cluster, and what it is given."""

    place: Place
    url: str
    one_time: str
    journal: Journal

    def ask(self, body: dict[str, Any], steps: Steps) -> dict[str, Any]:
        """Again and again, where the cluster cannot take it just now: it knows this host by its keys."""
        with closing(Client([self.url], token=self.one_time, tls=client_context(self.place.files.ca))) as client:
            key = {"Idempotency-Key": uuid4().hex}
            return patiently(
                lambda: dict(client.request("POST", "/join", body, headers=key)), may_help, steps.note, ASK_S
            )

    def take(self, given: dict[str, Any], wishes: Wishes, own_broker: BrokerNode | None) -> ProviderSettings:
        """Writes what it was given, and its own secrets, where the daemon looks for them."""
        place, named = self.place, nested({**given["configuration"], **wishes.settings})
        broker: dict[str, Any] = {**given["broker"], **named.pop("broker", {}), "username": node_user(place.name)}
        if own_broker is None or given["own_broker"]:  # else the cluster's are used, and its own is none of them
            if wishes.endpoints:
                broker["endpoints"] = list(wishes.endpoints)
            if wishes.management is not None:
                broker["management"] = wishes.management
        settings = place.settings(broker, api=named.pop("api", {}), **named)
        write_atomically(place.files.ca, given["ca"], mode=0o644)
        write_atomically(place.files.certificate, given["certificate"], mode=0o644)
        self.journal.secrets.write(place.files)
        write_store_password(place)
        return settings

    def vault(self, state: State) -> Vault:
        """Opens that state's secrets. Raises `Invalid` where it has not got the keys."""
        return Vault(data_keys(state.of("key"), self.place.name, self.journal.secrets_key))

    def newest(self, revision: int) -> State:
        """The cluster's state as it is now, of `revision` at least. It is not stored: the daemon reads on from what is.
        Raises `Refused` where this node was removed."""
        name = self.place.name
        try:
            with closing(self._member()) as member:
                state, _ = read_snapshot(resumed(member, _at_least(revision)))
        except Problem as problem:
            if problem.answer_code == Unauthenticated.code:
                raise removed_while_joining(name) from None
            raise
        if state.get("node", name) is None:
            raise removed_while_joining(name)
        return state

    def _member(self) -> Client:
        files = self.place.files
        tls = client_context(files.ca, files.certificate, files.key)
        return Client([self.url], token=self.journal.token, tls=tls)

    def fetch(self, revision: int) -> State:
        """The cluster's state and history, stored."""
        with closing(self._member()) as member:
            state, position = read_snapshot(resumed(member, _at_least(revision)))
            self.vault(state)  # or all that it has is of no use
            with closing(self.place.open_store()) as store:
                if _shared(self.place, store, state):
                    return state
                store.seed(state, position, over=(0, 0))
                fetch_history(store, lambda until: member.lines("GET", f"/history?until={until}"), state.revision)
        return state


def among_brokers(broker: OwnBroker, admission: Admission, state: State, steps: Steps) -> str:
    """`broker.join`. One that does not let this host in may have a newer cookie than that state, as after somebody was
    removed, or not the newest yet: tried again for a while, with what the cluster has by then."""
    name, newest = admission.place.name, state

    def attempt() -> str:
        nonlocal newest
        try:
            return broker.join(newest, name, admission.vault(newest))
        except NotLetIn:
            newest = admission.newest(newest.revision)
            raise

    return patiently(attempt, lambda error: isinstance(error, NotLetIn), steps.note, COOKIE_S)


def _at_least(revision: int) -> dict[str, str]:
    return {"Bellwether-Min-Revision": str(revision)}


def _check_store(place: Place, ca: str) -> None:
    """Raises `Refused` where it holds the state of a cluster that knows nothing of this authority."""
    with closing(place.open_store()) as store:
        if store.exists():
            held, _ = store.load()
            if held.get("authority", authority_id(ca)) is None:
                raise _foreign(place, held.revision, "another cluster")


def _foreign(place: Place, revision: int, whose: str) -> Refused:
    shown, _ = split_password(place.database)
    return Refused(
        f"{shown} holds the state of {whose} (revision {revision}), and nothing there was changed: give another "
        "database with --store-url, or empty that one if nobody needs it any more"
    )


def _shared(place: Place, store: Store, state: State) -> bool:
    """Whether other members keep their state in the same database: it holds this node's own admission, then. Raises
    `Refused` where it holds the state of another log."""
    reached = store.reached()
    if reached is not None and reached[0] != state.generation:
        raise _foreign(place, reached[2], f"another log, {reached[0]}")
    if reached is None or reached[2] < state.revision:
        return False
    held, _ = store.load()
    return need(held, "setting", CLUSTER_ID).spec == need(state, "setting", CLUSTER_ID).spec


def _count(state: State) -> int:
    return sum(len(collection) for collection in state.documents.values())
