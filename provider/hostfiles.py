"""What `provider run` asks of the files on its host before it starts: that they are private, and its alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provider.settings import Files, ProviderSettings
from provider.store import split_password, with_password
from shared.errors import Invalid
from shared.files import check_private as private_or_refused
from shared.files import locked as locked_file
from shared.files import make_private_directory
from shared.logs import log


def check_private(settings: ProviderSettings, files: Files) -> None:
    """Raises `Refused` where others on this host could read what is secret, or change what this provider believes."""
    for path in files.secrets:
        if not path.exists():
            raise Invalid(f"{path} is missing; `provider init` or `provider join` makes it")
    secrets = [*files.secrets, store_password_file(settings, files)]
    if split_password(settings.store_url)[1] is not None:
        secrets.append(files.config)
    private_or_refused(files.config.absolute().parent, secrets)
    if os.geteuid() == 0:
        log().warning("runs as root, which it does not need: as a user of its own it could do less harm")


def store_password_file(settings: ProviderSettings, files: Files) -> Path:
    """Where the store's password is, if it needs one."""
    named = settings.store_password_file
    return files.store_password if named is None else files.config.absolute().parent / named


def store_address(settings: ProviderSettings, files: Files) -> str:
    """The store's URL with its password. Never to be shown. Raises `Invalid` where the password's file is missing."""
    file = store_password_file(settings, files)
    if settings.store_url.startswith("sqlite") or (settings.store_password_file is None and not file.exists()):
        return settings.store_url
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise Invalid(f"the store's password cannot be read: {error}") from None
    return with_password(settings.store_url, password)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One daemon a data directory. Raises `Refused` where another one holds it."""
    make_private_directory(directory)
    with locked_file(directory / "lock", f"another provider runs on {directory} already"):
        yield
