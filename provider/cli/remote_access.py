"""`bellwether token …` and `bellwether user …`: asked of any node, with one's own token."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import typer

from provider.cli import people
from provider.cli.console import AsJson, application
from provider.client import Client


def add_to(app: typer.Typer, remote: Callable[[], AbstractContextManager[Client]]) -> None:
    """Adds both groups to `app`; `remote()` is a client for the nodes in the environment."""
    app.add_typer(_tokens(remote), name="token")
    app.add_typer(_users(remote), name="user")


def _tokens(remote: Callable[[], AbstractContextManager[Client]]) -> typer.Typer:
    tokens = application("Tokens for people, programs and newcomers.")

    @tokens.command("create")
    def create_token(
        role: people.NewRole,
        ttl: people.Ttl = None,
        name: people.Label = None,
        scope: people.Scope = None,
        token_out: people.TokenOut = None,
        as_json: AsJson = False,
    ) -> None:
        """Make a token and print it, this once."""
        with remote() as client:
            created = people.create_token(client, role, ttl, name, scope)
        people.show_new_token(created, token_out, as_json=as_json)

    @tokens.command("list")
    def list_tokens(as_json: AsJson = False) -> None:
        """All tokens: what each is for, until when, and when it was last used."""
        with remote() as client:
            people.list_tokens(client, as_json=as_json)

    @tokens.command("revoke")
    def revoke_token(token_id: str) -> None:
        """Make a token useless at once."""
        with remote() as client:
            people.revoke_token(client, token_id)

    return tokens


def _users(remote: Callable[[], AbstractContextManager[Client]]) -> typer.Typer:
    users = application("Users who log in with a password.")

    @users.command("add")
    def add_user(name: people.User, role: people.Role, password_file: people.PasswordFile = None) -> None:
        """Make a user."""
        with remote() as client:
            people.add_user(client, name, role, password_file)

    @users.command("list")
    def list_users(as_json: AsJson = False) -> None:
        """All users."""
        with remote() as client:
            people.list_users(client, as_json=as_json)

    @users.command("role")
    def set_role(name: people.User, role: people.Role) -> None:
        """Give a user another role."""
        with remote() as client:
            people.set_role(client, name, role)

    @users.command("password")
    def set_password(
        name: people.User,
        password_file: people.PasswordFile = None,
        old_password_file: people.OldPasswordFile = None,
    ) -> None:
        """Give a user another password."""
        with remote() as client:
            people.set_password(client, name, password_file, old_password_file)

    @users.command("remove")
    def remove_user(name: people.User) -> None:
        """Remove a user, and end all sessions."""
        with remote() as client:
            people.remove_user(client, name)

    return users
