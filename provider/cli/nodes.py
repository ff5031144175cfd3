"""`bellwether nodes`: the members, where they are placed, and their removal."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from provider.cli.console import AsJson, application, plain, print_json
from provider.cli.show import show_cluster
from provider.client import Client, path


def placements(texts: list[str]) -> dict[str, str]:
    """`host=NAME` and `zone=NAME` as labels. Raises `typer.BadParameter` for what is none."""
    pairs = [text.partition("=")[::2] for text in texts]
    if any(name not in ("host", "zone") or not value for name, value in pairs):
        raise typer.BadParameter("a label is host=NAME or zone=NAME")
    return dict(pairs)


def add_to(app: typer.Typer, remote: Callable[[], AbstractContextManager[Client]]) -> None:
    """Adds the group to `app`; `remote()` is a client for the nodes in the environment."""
    nodes = application("Nodes: the members of the cluster; without a command, all of them.")
    app.add_typer(nodes, name="nodes", invoke_without_command=True, no_args_is_help=False)

    @nodes.callback()
    def members(context: typer.Context, as_json: AsJson = False) -> None:
        if context.invoked_subcommand is None:
            list_nodes(as_json)

    @nodes.command("list")
    def list_nodes(as_json: AsJson = False) -> None:
        """All members, and how they are."""
        with remote() as client:
            cluster = client.get("/cluster")
        if as_json:
            print_json(cluster["nodes"])
        else:
            show_cluster(cluster)

    @nodes.command("label")
    def label_node(
        name: str,
        label: Annotated[
            list[str] | None, typer.Argument(help="host=NAME, zone=NAME: all that it is to have; none: no label.")
        ] = None,
    ) -> None:
        """Say where a node is placed: nodes that share a host or a zone can be lost together."""
        labels = placements(label or [])
        with remote() as client:
            document = client.request("PUT", path("nodes", name), {"labels": labels})
        plain(f"{name}: {', '.join(f'{key} {value}' for key, value in sorted(labels.items())) or 'no label'}")
        plain(f"revision {document['revision']}")

    @nodes.command("remove")
    def remove_node(name: str) -> None:
        """Remove a standby, also one whose host is gone. Its name never comes back."""
        with remote() as client:
            client.request("DELETE", path("nodes", name))
        plain(f"{name} is removed: its certificate, token and broker user are worth nothing any more.")
