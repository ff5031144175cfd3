"""What a newcomer believes before it has joined: the authority that its token names, and nothing sent along with it."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provider.founding import Place
from provider.joining.host import SystemdUnit
from provider.joining.join import Host, join
from provider.joining.meeting import trusted_ca
from provider.trust import pki
from shared.errors import BellwetherError, Invalid, Refused
from shared.files import locked
from shared.tls import fingerprint
from shared.tokens import new_token
from tests.support.answering import AUTHORITY_PEM, Asked, answering
from tests.support.history import accept_values, genesis, position

REAL, _ = pki.new_ca("Bellwether real")


@dataclass
class Impostor:
    """Serves with an authority of its own; `ca` is what it says at /ca. `asked` is what came."""

    url: str = ""
    own: str = AUTHORITY_PEM
    ca: str = ""
    alive: bool = False
    """It tells the time, as a provider does."""
    behind_s: int = 0
    """The time that it tells is so far behind."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, asked: Asked) -> tuple[int, str]:
        self.asked.append((asked.path, asked.headers.get("Authorization")))
        live = json.dumps({"now": time.time_ns() // 1_000_000 - self.behind_s * 1000})
        return 200, live if self.alive and asked.path.endswith("/live") else self.ca


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


def test_a_database_that_holds_the_state_of_another_cluster_is_left_alone(impostor: Impostor, tmp_path: Path) -> None:
    """Perhaps the address of the wrong database: its cluster lives. Nothing is asked for, and no token shown."""
    impostor.ca, impostor.alive = impostor.own, True
    token = new_token("node", fingerprint(impostor.own))
    place = Place(tmp_path / "p2" / "provider.toml", "p2", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    accepted = accept_values(genesis(), "abc")
    with closing(place.open_store()) as store:
        store.seed(genesis(), None)
        store.commit(accepted, position(4))
    with pytest.raises(Refused, match=r"state of another cluster \(revision 4\)"):
        join(place, impostor.url, token.text())
    with closing(place.open_store()) as store:
        assert store.load()[0].digest == accepted[-1].state.digest
    assert all(shown is None for _, shown in impostor.asked), "it was shown the token"


@pytest.mark.parametrize(("behind_s", "side"), [(100 * 86_400, "ahead of"), (-2 * 86_400, "behind")])
def test_a_clock_that_is_days_off_is_named_before_a_certificate_is_looked_at(
    impostor: Impostor, tmp_path: Path, behind_s: int, side: str
) -> None:
    """To such a clock they have expired, or are not valid yet: which says nothing to whoever reads it."""
    impostor.ca, impostor.alive, impostor.behind_s = impostor.own, True, behind_s
    place = Place(tmp_path / "p4" / "provider.toml", "p4", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    with pytest.raises(Refused, match=f"clock is {abs(behind_s)} s {side} the cluster's: set it right first"):
        join(place, impostor.url, new_token("node", fingerprint(impostor.own)).text())
    assert all(shown is None for _, shown in impostor.asked), "it was shown the token"


def test_a_provider_of_another_cluster_is_refused(impostor: Impostor) -> None:
    impostor.ca = impostor.own
    with pytest.raises(Refused, match="not of the cluster"):
        trusted_ca(impostor.url, fingerprint(REAL))
    impostor.ca = "rubbish"
    with pytest.raises(Refused, match="does not answer like a provider"):
        trusted_ca(impostor.url, fingerprint(REAL))


@pytest.mark.parametrize("url", ["https://p4.example.org", "https://p4.example.org:99999"])
def test_an_address_that_cannot_be_is_refused_before_the_cluster_is_asked_for_anything(
    impostor: Impostor, tmp_path: Path, url: str
) -> None:
    with pytest.raises(Invalid):
        join(Place(tmp_path / "provider.toml", "p4", url), impostor.url, new_token("node", fingerprint(REAL)).text())
    assert impostor.asked == []


@pytest.mark.parametrize(
    ("state", "rests"), [("active", False), ("deactivating", False), ("inactive", True), ("failed", True)]
)
def test_a_daemon_of_before_that_still_runs_is_to_be_ended_first(
    impostor: Impostor, tmp_path: Path, state: str, rests: bool
) -> None:
    """Its files are gone, and it would be taken for the new one."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {state}\n")
    systemctl.chmod(0o755)
    place = Place(tmp_path / "p4" / "provider.toml", "p4", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    token = new_token("node", fingerprint(REAL)).text()
    with pytest.raises(Refused) as said:
        join(place, impostor.url, token, host=Host(service=SystemdUnit(str(systemctl))))
    assert ("systemctl stop bellwether-provider" in str(said.value), impostor.asked == []) == (not rests, not rests)


def test_a_daemon_that_has_the_data_is_found_before_the_token_is_shown(impostor: Impostor, tmp_path: Path) -> None:
    impostor.ca, impostor.alive = impostor.own, True
    place = Place(tmp_path / "p4" / "provider.toml", "p4", "https://127.0.0.1:1")
    place.data_dir.mkdir(mode=0o700, parents=True)
    token = new_token("node", fingerprint(impostor.own)).text()
    with locked(place.data_dir / "lock", ""), pytest.raises(Refused, match="another provider runs"):
        join(place, impostor.url, token)
    assert all(shown is None for _, shown in impostor.asked), "it was shown the token"
