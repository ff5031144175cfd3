"""Backups in S3-compatible storage. The one module that knows boto3, which is not installed unless it is asked for
(`bellwether[s3]`)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from provider.backup.container import Written
from provider.backup.names import by_age
from provider.backup.port import TargetFailed, Write
from shared.errors import Invalid, NotFound

S3 = "s3://"
CONNECT_S, READ_S = 5, 60


class Bucket:
    """Implements `Target`. An upload is there as a whole or not at all: S3 says so."""

    def __init__(self, bucket: str, prefix: str, *, endpoint: str | None, credentials: Path | None) -> None:
        """Raises `Invalid` where boto3 is missing or the settings cannot be used. Does not connect."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
            from s3transfer.exceptions import RetriesExceededError
        except ImportError:
            raise Invalid(
                "S3 needs boto3, which is not installed here: /opt/bellwether/bin/pip install 'boto3>=1.36'"
            ) from None
        self._errors = (BotoCoreError, ClientError, RetriesExceededError, OSError)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        session = boto3.Session()
        if credentials is not None and credentials.exists():
            session._session.set_config_variable("credentials_file", str(credentials))
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"max_attempts": 4, "mode": "standard"},
            # Amazon's newer checksums, boto3's default since 1.36, are refused by many others. A backup has its own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client: Any = session.client(
                "s3",
                endpoint_url=endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
                region_name=session.region_name or "us-east-1",
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise Invalid(f"S3: {error}") from None

    def store(self, name: str, write: Write) -> Written:
        with self._asking(), tempfile.TemporaryFile() as file:
            written = write(file)
            file.seek(0)
            self._client.upload_fileobj(file, self._bucket, self._prefix + name)
            there = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"]
            if there != written.size_bytes:
                raise TargetFailed(f"{self.shown(name)} has {there} bytes, {written.size_bytes} were sent")
        return written

    def names(self) -> list[str]:
        with self._asking():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            keys = [str(one["Key"]).removeprefix(self._prefix) for page in pages for one in page.get("Contents", ())]
        return by_age(keys)

    def fetch(self, name: str, file: BinaryIO) -> None:
        if name not in self.names():
            raise NotFound(f"there is no backup {self.shown(name)}")
        with self._asking():
            self._client.download_fileobj(self._bucket, self._prefix + name, file)

    def remove(self, name: str) -> None:
        with self._asking():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def shown(self, name: str) -> str:
        return f"{S3}{self._bucket}/{self._prefix}{name}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            why = getattr(error, "last_exception", error)  # of several tries
            raise TargetFailed(f"{S3}{self._bucket}/{self._prefix}: {why}") from None
