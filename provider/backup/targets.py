"""Where backups lie: a directory, or a bucket of S3-compatible storage. Whatever else lies there is never touched."""

import tempfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from provider.backup.directory import Directory
from provider.backup.names import newest
from provider.backup.port import Target
from provider.backup.s3 import S3, Bucket
from shared.errors import Invalid, NotFound, Refused


def target_of(text: str, *, endpoint: str | None = None, credentials: Path | None = None) -> Target:
    """The place that `text` names: an absolute path, or `s3://bucket/prefix`. `endpoint`: URL of a storage that is not
    Amazon's; `credentials`: a file in AWS' form, else what the environment says. Raises `Invalid`."""
    if not text.startswith(S3):
        if not Path(text).is_absolute():
            raise Invalid(f"{text!r}: expected a directory's absolute path, or s3://bucket/prefix")
        return Directory(Path(text))
    parts = urlsplit(text)
    if not parts.netloc or parts.query or parts.fragment:
        raise Invalid(f"{text!r}: expected s3://bucket or s3://bucket/prefix")
    return Bucket(parts.netloc, parts.path.strip("/"), endpoint=endpoint, credentials=credentials)


def opened(text: str, **how: Any) -> tuple[BinaryIO, str]:
    """A backup to be read: a file, or one in a bucket (`s3://bucket/prefix/name`); and what it is called. A directory,
    or a prefix that ends with a slash, stands for the newest backup there. Raises `NotFound`, `Refused`,
    `TargetFailed`."""
    if not text.startswith(S3):
        path = Path(text)
        if path.is_dir():
            path = path / _newest(Directory(path), text)
        try:
            return path.open("rb"), str(path)
        except FileNotFoundError:
            raise NotFound(f"there is no backup {path}") from None
        except OSError as error:
            raise Refused(f"{path} cannot be read: {error.strerror}") from None
    place, _, name = text.rpartition("/")
    target = target_of(place, **how)
    name = name or _newest(target, text)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        target.fetch(name, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, target.shown(name)


def _newest(target: Target, text: str) -> str:
    try:
        found = newest(target.names())
    except Refused as error:
        raise Refused(f"{text}: {error.detail}") from None
    if found is None:
        raise NotFound(f"there is no backup in {text}")
    return found
