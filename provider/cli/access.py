"""`provider token …` and `provider user …`: asked of the daemon on this host, with the node's own token."""

import os

from provider.cli import people
from provider.cli.console import DEFAULT_CONFIG, AsJson, Config, application, daemon, fail

tokens = application("Tokens for people, programs and newcomers.")
users = application("Users who log in with a password.")


@tokens.command("create")
def create_token(
    role: people.NewRole,
    config: Config = DEFAULT_CONFIG,
    ttl: people.Ttl = None,
    name: people.Label = None,
    scope: people.Scope = None,
    token_out: people.TokenOut = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once."""
    with daemon(config) as (_, client):
        created = people.create_token(client, role, ttl, name, scope)
    people.show_new_token(created, token_out, as_json=as_json)


@tokens.command("list")
def list_tokens(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """All tokens: what each is for, until when, and when it was last used."""
    with daemon(config) as (_, client):
        people.list_tokens(client, as_json=as_json)


@tokens.command("revoke")
def revoke_token(token_id: str, config: Config = DEFAULT_CONFIG) -> None:
    """Make a token useless at once."""
    with daemon(config) as (_, client):
        people.revoke_token(client, token_id)


@tokens.command("administrator")
def administrator(config: Config = DEFAULT_CONFIG, token_out: people.TokenOut = None, as_json: AsJson = False) -> None:
    """Issue the first administrator's token anew; the former one is good no longer. Needs root on a provider."""
    if os.geteuid() != 0:
        fail("only root on a provider may issue the administrator's token anew: run it with sudo")
    with daemon(config) as (_, client):
        created = client.request("POST", "/tokens/administrator")
    people.show_new_token(created, token_out, as_json=as_json)


@users.command("add")
def add_user(
    name: people.User, role: people.Role, config: Config = DEFAULT_CONFIG, password_file: people.PasswordFile = None
) -> None:
    """Make a user."""
    with daemon(config) as (_, client):
        people.add_user(client, name, role, password_file)


@users.command("list")
def list_users(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """All users."""
    with daemon(config) as (_, client):
        people.list_users(client, as_json=as_json)


@users.command("role")
def set_role(name: people.User, role: people.Role, config: Config = DEFAULT_CONFIG) -> None:
    """Give a user another role."""
    with daemon(config) as (_, client):
        people.set_role(client, name, role)


@users.command("password")
def set_password(name: people.User, config: Config = DEFAULT_CONFIG, password_file: people.PasswordFile = None) -> None:
    """Give a user another password."""
    with daemon(config) as (_, client):
        people.set_password(client, name, password_file, None)


@users.command("remove")
def remove_user(name: people.User, config: Config = DEFAULT_CONFIG) -> None:
    """Remove a user, and end all sessions."""
    with daemon(config) as (_, client):
        people.remove_user(client, name)
