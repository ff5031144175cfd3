"""What cluster tests ask of a node: one line a question; an answer that was not hoped for explains itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from localcluster.api import Answer, Api
from localcluster.cluster import Cluster
from localcluster.process import wait_until


class Client(Api):
    """A node's API; see `localcluster.api`. What is not answered as hoped raises `AssertionError` with the answer."""

    def read(self, path: str, **headers: str) -> Any:
        """The JSON of a GET that must answer 200."""
        return done(self.get(path, **headers)).json

    def write(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request that must be answered with 2xx."""
        return done(
            self.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        )

    @property
    def ca(self) -> Path:
        return self._ca

    @property
    def token(self) -> str | None:
        return self._token

    def holding(self, token: str | None) -> "Client":
        """The same node, asked with another token, or with none."""
        return Client(self.url, ca=self._ca, token=token)

    def wait_for(self, path: str, condition: Callable[[Any], object], *, timeout_s: float = 30.0) -> Any:
        """The JSON of `path` once `condition` holds of it. Raises `ProcessFailed` with the last answer."""
        last: list[Answer | OSError] = []

        def holds() -> object:
            try:
                answer = self.get(path)
            except OSError as error:
                last[:] = [error]
                return False
            last[:] = [answer]
            return answer.status == 200 and condition(answer.json)

        try:
            wait_until(holds, timeout_s=timeout_s, what=f"{self.url} {path}")
        except Exception as error:
            error.add_note(f"its last answer: {last}")
            raise
        return last[0].json if isinstance(last[0], Answer) else None

    def wait_for_gone(self, path: str, *, timeout_s: float = 30.0) -> None:
        """Returns once `path` is 404. Raises `ProcessFailed`."""
        wait_until(lambda: self.get(path).status == 404, timeout_s=timeout_s, what=f"{self.url} {path} is still there")


def client(cluster: Cluster, node: str) -> Client:
    """Node `node` of `cluster`, as administrator."""
    token = cluster.layout.admin_token.read_text().strip()
    return Client(cluster.providers[node].url, ca=cluster.layout.ca, token=token)


def write_as(node: Client, token: str | None, **headers: str) -> Answer:
    """What `node` says to a write by whoever has that token, or none."""
    return node.holding(token).put("/settings/user.attacked", {"value": uuid4().hex}, **headers)


def as_node(cluster: Cluster, node: str, files: Path) -> Client:
    """Node `node`, asked by the node whose configuration is in the directory `files`: its token, its certificate."""
    token = (files / "node.token").read_text().strip()
    certificate = (files / "node.pem", files / "node.key")
    return Client(cluster.providers[node].url, ca=cluster.layout.ca, token=token, certificate=certificate)


def done(answer: Answer) -> Answer:
    """`answer`, which must be a success."""
    assert 200 <= answer.status < 300, f"{answer.status}: {answer.body.decode(errors='replace')}"
    return answer
