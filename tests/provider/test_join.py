"""What a newcomer believes before it has joined: the authority that its token names, and nothing sent along with it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provider.founding import Place
from provider.joining.join import join
from provider.joining.meeting import trusted_ca
from provider.trust import pki
from shared.errors import BellwetherError, Refused
from shared.tls import fingerprint
from shared.tokens import new_token
from tests.support.answering import AUTHORITY_PEM, Asked, answering

REAL, _ = pki.new_ca("Bellwether real")


@dataclass
class Impostor:
    """Serves with an authority of its own; `ca` is what it says at /ca. `asked` is what came."""

    url: str = ""
    own: str = AUTHORITY_PEM
    ca: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, asked: Asked) -> tuple[int, str]:
        self.asked.append((asked.path, asked.headers.get("Authorization")))
        return 200, self.ca


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    found = Impostor()
    with answering(found.answer) as found.url:
        yield found


@pytest.mark.parametrize("behind", [True, False])
def test_an_authority_that_is_sent_beside_the_pinned_one_gets_no_token(
    impostor: Impostor, tmp_path: Path, behind: bool
) -> None:
    impostor.ca = REAL + impostor.own if behind else impostor.own + REAL
    token = new_token("node", fingerprint(REAL))
    place = Place(tmp_path / "p2" / "provider.toml", "p2", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    with pytest.raises(BellwetherError):
        join(place, impostor.url, token.text())
    assert {path for path, _ in impostor.asked} <= {"/api/v1/ca", "/api/v1/health/live"}
    assert all(shown is None for _, shown in impostor.asked), "it was shown the token"


def test_a_provider_of_another_cluster_is_refused(impostor: Impostor) -> None:
    impostor.ca = impostor.own
    with pytest.raises(Refused, match="not of the cluster"):
        trusted_ca(impostor.url, fingerprint(REAL))
    impostor.ca = "rubbish"
    with pytest.raises(Refused, match="does not answer like a provider"):
        trusted_ca(impostor.url, fingerprint(REAL))
