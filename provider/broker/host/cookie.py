"""The Erlang cookie of this host's broker: in its file, which is its user's, and in the broker that runs."""

from provider.broker.host.commands import Commands, CookieRefused, Place, as_user, guest, handed


def change_cookie(place: Place, commands: Commands, cookie: str) -> None:
    """The broker that runs uses this cookie from now on, and so do its commands. Connections that are open stay."""
    try:
        commands.evaluate_secretly(f"erlang:set_cookie('{cookie}').")
    except CookieRefused:  # interrupted between this and the next step
        with guest(place, cookie, ()) as other:
            must_let_in(other)
    write_cookie(place, cookie)


def write_cookie(place: Place, cookie: str) -> None:
    """Into the file: for commands, and for the broker's next start."""
    # RabbitMQ's user owns the directory that the cookie is in: root does not write there, that user does.
    with handed(place.user, {"cookie": cookie}) as directory:
        new = directory / "cookie"
        target = place.cookie
        staged = target.with_name(".erlang.cookie.new")
        as_user(place.user, ["/bin/cp", "--remove-destination", "--preserve=mode", str(new), str(staged)])
        as_user(place.user, ["/bin/sync", str(staged)])
        as_user(place.user, ["/bin/mv", "-fT", str(staged), str(target)])


def must_let_in(commands: Commands) -> None:
    """Raises `CookieRefused`, with what to do, where the broker uses another cookie than these commands."""
    try:
        commands.evaluate("ok.")
    except CookieRefused:
        raise CookieRefused(
            "the RabbitMQ on this host uses a cookie that is neither its file's nor the cluster's, or an old "
            "certificate: `systemctl kill -s KILL rabbitmq-server`, and it starts again with what is there"
        ) from None
