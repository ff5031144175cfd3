"""What is new about a node since the state last heard of it: where it and its broker are, which versions they run."""

from collections.abc import Mapping
from typing import Any

from provider.address import gone, towards
from provider.core.commands import Command, RenewCertificate, UpdateNode
from provider.core.documents import CertificateSpec
from provider.core.state import State
from provider.settings import ProviderSettings, host_of
from shared.version import VERSION


def news_of(settings: ProviderSettings, state: State, software: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the node's document says otherwise. Empty for one that is no member. `software`: version and plug-ins of its
    broker, where they are known."""
    node = state.get("node", settings.name)
    if node is None:
        return {}
    found: dict[str, Any] = {}
    if node.spec["url"] != settings.url:
        found["url"] = settings.url
    if node.spec["version"] != VERSION:
        found["version"] = VERSION
    broker = node.spec.get("broker")
    if broker is not None:
        if list(node.spec["endpoints"]) != list(settings.broker.endpoints):
            found["endpoints"] = list(settings.broker.endpoints)
        known = {**broker, "plugins": list(broker.get("plugins", ()))}
        now = {**known, **(software or {}), "address": _address(settings, state, broker["address"])}
        if now != known:
            found["broker"] = now
    return found


def _address(settings: ProviderSettings, state: State, known: str) -> str:
    """Of this host, where the other brokers reach it."""
    if not gone(known):
        return known
    host = host_of(settings.url)
    return host if _is_address(host) else towards(state, settings.name) or known


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdecimal()


def recording(node: str, certificate: CertificateSpec, news: Mapping[str, Any]) -> Command:
    """The command that writes a new certificate down, with what else is new."""
    return UpdateNode(node, certificate, news) if news else RenewCertificate(node, certificate)
