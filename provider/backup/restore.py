"""`provider restore`: a host becomes the one node of a cluster that was lost, out of its backup."""

import re
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from provider.backup.container import Head
from provider.backup.content import Content, cluster_id
from provider.backup.restored import Newcomer, Told, check, restored
from provider.broker.users import node_user
from provider.core import commands as c
from provider.core import documents as d
from provider.core.anew import begun_anew
from provider.core.entries import encode
from provider.core.state import State
from provider.founding import Place, Secrets, write_store_password
from provider.settings import ProviderSettings, nested, to_toml
from provider.store import HistoryRow, Store
from provider.trust import pki
from provider.trust.authorities import bundle
from provider.trust.membership import Membership, sealed_cookie
from provider.trust.vault import Vault, new_data_key, public_key
from shared.errors import Invalid, Refused
from shared.files import write_atomically
from shared.version import VERSION


def must_be_readable(head: Head) -> None:
    """Raises `Refused` where a newer version made the backup: it may hold what this one does not understand."""
    if _parts(head.version) > _parts(VERSION):
        raise Refused(f"version {head.version} made this backup, this is {VERSION}: install {head.version} or newer")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def restore(
    place: Place,
    content: Content,
    head: Head,
    broker: dict[str, Any],
    broker_admin: tuple[str, str],
    own_broker: tuple[d.BrokerNode, str] | None = None,
) -> tuple[State, Told]:
    """Makes this host the primary of the cluster in `content`, alone, with a log of its own. `broker`, `broker_admin`
    and `own_broker` as for `founding.init`. Needs no running broker. The configuration is written last: while it is not
    there, nothing is. Raises a `BellwetherError`, or `OSError`."""
    place.must_be_new()
    must_be_readable(head)
    now = int(time.time() * 1000)
    check(content.state, place.name, now)
    with closing(place.open_store()) as store:
        if store.exists() and not _is_ours(store, content.state):
            raise Refused(f"{place.database} holds a state already: a restored cluster needs an empty store")
        begun = _begin(place, content, broker, broker_admin, own_broker, now)
        state, entry, told = restored(begun.state, begun.newcomer, _remembered(head), now)
        write_atomically(place.files.ca, bundle(state), mode=0o644)
        write_atomically(place.files.certificate, begun.certificate, mode=0o644)
        begun.own.write(place.files)
        write_store_password(place)
        store.seed(state, None)
        store.add_history([HistoryRow(state.revision, state.epoch, state.now, encode(entry).decode())])
    write_atomically(place.config, to_toml(begun.settings))
    return state, told


def _is_ours(store: Store, state: State) -> bool:
    """Whether it holds what a restore of this cluster left that was interrupted: no daemon ever ran on it. A log that a
    node has begun by force, and that waits for its broker, looks much alike."""
    found, position = store.load()
    known = c.restored(found)
    of_backup = known is not None and "survivor" not in known["backup"]
    return position is None and of_backup and cluster_id(found) == cluster_id(state)


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the node is made of."""

    state: State
    newcomer: Newcomer
    settings: ProviderSettings
    own: Secrets
    certificate: str


def _begin(
    place: Place,
    content: Content,
    broker: dict[str, Any],
    broker_admin: tuple[str, str],
    own_broker: tuple[d.BrokerNode, str] | None,
    now: int,
) -> _Begun:
    own, managed = Secrets.new(place.name), broker.get("management") is not None
    if not managed:
        own = replace(own, broker_password=broker_admin[1])
    settings = _settings(place, content, {**broker, "username": node_user(place.name) if managed else broker_admin[0]})
    key_id = f"k{max(int(id_[1:]) for id_ in content.data_keys) + 1}"
    vault = Vault({**content.data_keys, key_id: new_data_key()})
    begun = begun_anew(content.state, uuid4().hex[:16], place.name, now)
    request = pki.new_request(own.key, place.name)
    membership, among_brokers = Membership(settings, place.files, vault), own_broker[0].host if own_broker else None
    certificate, given = membership.sign(begun, request, place.name, place.url, among_brokers)
    node = own.as_node(settings, given, own_broker[0] if own_broker else None, managed=managed)
    credentials = {}
    if managed:
        sealed = vault.seal(broker_admin[1], c.BROKER_ADMIN)
        credentials[c.BROKER_ADMIN] = d.CredentialSpec(username=broker_admin[0], passwords=(sealed,))
    if own_broker is not None:
        credentials[c.BROKER_COOKIE] = sealed_cookie(vault, own_broker[1])
    newcomer = Newcomer(place.name, node, key_id, vault.wrapped_for(public_key(own.secrets_key)), credentials)
    return _Begun(begun, newcomer, settings, own, certificate)


def _settings(place: Place, content: Content, broker: dict[str, Any]) -> ProviderSettings:
    """What all nodes shared, and what is said of this one. Raises `Invalid`."""
    named = nested(content.configuration)
    try:
        return place.settings({**named.pop("broker", {}), **broker}, api=named.pop("api", {}), **named)
    except TypeError as error:  # a name that stands for nothing any more
        raise Invalid(f"the settings in the backup cannot be used: {error}") from None


def _remembered(head: Head) -> dict[str, Any]:
    return {
        "at": head.at,
        "node": head.node,
        "version": head.version,
        "generation": head.generation,
        "epoch": head.epoch,
        "revision": head.revision,
    }
