"""Store URLs and the password that some of them need. It is kept out of provider.toml and out of every message."""

from provider.store.connections import parse_url


def split_password(url: str) -> tuple[str, str | None]:
    """The URL without its password, and the password. Raises `Invalid`."""
    parsed = parse_url(url)
    password = None if parsed.password is None else str(parsed.password)
    # URL.set leaves out what is None, so the parts are put together anew.
    return parsed._replace(password=None).render_as_string(hide_password=False), password


def with_password(url: str, password: str) -> str:
    """The URL with that password, whatever characters it has. Raises `Invalid`."""
    return parse_url(url).set(password=password).render_as_string(hide_password=False)
