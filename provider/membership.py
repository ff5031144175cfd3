"""What newcomers are given, and what agents are told about the cluster."""

from dataclasses import dataclass
from typing import Any

from provider import pki
from provider.core.documents import Document
from provider.core.state import State
from provider.settings import BrokerSettings, Files, ProviderSettings
from shared import messages as m
from shared.tls import fingerprint


@dataclass(frozen=True, slots=True)
class Membership:
    """Reads the files beside the configuration each time: a renewed certificate or authority is used at once."""

    settings: ProviderSettings
    files: Files

    def ca(self) -> str:
        return self.files.ca.read_text(encoding="ascii")

    def ca_fingerprint(self) -> str:
        return fingerprint(self.ca())

    def sign(self, csr: str, name: str) -> str:
        """The certificate for a newcomer. Raises `Invalid`."""
        return pki.sign(csr, name, self.ca(), self.files.ca_key.read_text(encoding="ascii"))

    def certificate_days_left(self) -> float:
        return pki.days_left(self.files.certificate.read_text(encoding="ascii"))

    def advice(self, state: State) -> m.Advice:
        """The primary's broker and address first, then the others' by name."""
        nodes = sorted(state.of("node"), key=lambda node: (node.id != state.primary, node.id))
        return m.Advice(
            epoch=state.epoch,
            primary=state.primary,
            endpoints=tuple(dict.fromkeys(endpoint for node in nodes for endpoint in node.spec["endpoints"])),
            providers=tuple(_url(node) for node in nodes),
            vhost=self.settings.broker.vhost,
            ca=self.ca(),
        )

    def given_to_node(self, certificate: str, node_token: str) -> dict[str, Any]:
        """Everything that a new provider needs and cannot make itself."""
        broker: BrokerSettings = self.settings.broker
        return {
            "certificate": certificate,
            "ca": self.ca(),
            "ca_key": self.files.ca_key.read_text(encoding="ascii"),
            "secrets_key": self.files.secrets_key.read_text(encoding="ascii"),
            "node_token": node_token,
            "broker": {
                **broker.model_dump(mode="json", exclude_defaults=True),
                "password": self.files.broker_password.read_text(encoding="utf-8"),
            },
        }


def _url(node: Document) -> str:
    return str(node.spec["url"])
