"""What this node asks of the others, as itself: to have its certificate renewed, and whether it is a member still."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from provider.client import Client, Problem, as_node
from provider.core.commands import need
from provider.core.state import State
from provider.settings import Files
from provider.trust import pki
from shared.errors import BellwetherError
from shared.tls import client_context


@dataclass(frozen=True, slots=True)
class Peers:
    """Blocking; any thread but the event loop's."""

    node: str
    files: Files
    state: Callable[[], State]

    def renewed(self, csr: str, news: Mapping[str, Any]) -> tuple[str, int]:
        """A certificate that the primary has signed, PEM, and the revision in which it was recorded; what is `news` of
        this node with it. Raises a `BellwetherError`."""
        state = self.state()
        primary = need(state, "node", state.primary)
        given = self._ask(primary.spec["url"], "POST", f"/nodes/{self.node}/certificate", {"csr": csr, **news})
        return str(given["certificate"]), int(given["revision"])

    def expelled(self) -> str | None:
        """What a member says that knows all that this node knows and does not know this node: it was removed, and could
        not read so in the log, since the broker lets it in no more. None where nobody can say."""
        state = self.state()
        others = [node for node in state.of("node") if node.id != self.node]
        seen = {"Bellwether-Min-Revision": str(state.revision)}
        for node in sorted(others, key=lambda node: node.id != state.primary):
            try:
                self._ask(node.spec["url"], "GET", "/cluster", headers=seen)
            except Problem as problem:
                if problem.answer_code == "unauthenticated":
                    return problem.detail
            except (BellwetherError, OSError):
                continue
            else:
                return None
        return None

    def disowned_by(self, node: str) -> str | None:
        """What this member says, if it knows all that this node knows and does not know this node any more."""
        known, seen = self.state().get("node", node), {"Bellwether-Min-Revision": str(self.state().revision)}
        why = None
        for headers in (None, seen):  # who does not know this node at first may not have read so far
            why = self._refused(str(known.spec["url"]), headers) if known is not None else None
            if why is None:
                break
        return why

    def _refused(self, url: str, headers: dict[str, str] | None) -> str | None:
        try:
            self._ask(url, "GET", "/cluster", headers=headers)
        except Problem as problem:
            return problem.detail if problem.answer_code == "unauthenticated" else None
        except (BellwetherError, OSError):
            return None
        return None

    def alive(self, node: str) -> bool:
        """Whether a member answers, whatever it says."""
        known = self.state().get("node", node)
        try:
            if known is not None:
                self._ask(known.spec["url"], "GET", "/cluster")
        except Problem:
            return True
        except (BellwetherError, OSError):
            return False
        return known is not None

    def _ask(self, url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        with closing(self._client(url)) as client:
            return client.request(method, path, body, headers=headers)

    def _client(self, url: str) -> Client:
        """With this node's certificate; without it where nobody would accept that, since it has expired or its
        authority was dropped: to have it renewed, the token will do."""
        own = self.files.certificate.read_text(encoding="ascii")
        known = [authority.spec["certificate"] for authority in self.state().of("authority")]
        if pki.days_left(own) > 0 and any(pki.is_signed_by(own, one) for one in known):
            return as_node([url], self.files)
        token = self.files.node_token.read_text(encoding="ascii").strip()
        return Client([url], token=token, tls=client_context(self.files.ca))
