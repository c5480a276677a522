"""Addresses of files in object stores, and the pyarrow file system that reads and writes them.

s3://bucket/corpora/raw -> Address -> pyarrow.fs.S3FileSystem, "bucket/corpora/raw"

Credentials come from the environment or the machine, as pyarrow finds them. They are never part of an address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from babyllm.errors import UserError
from babyllm.runtime.secret import secret

SCHEMES = ("s3", "gs", "hdfs")
# A `Path` makes one slash of two.
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,3}}(.*)", re.DOTALL)
_CONNECT_S, _REQUEST_S = 10, 60
_SDK_ATTEMPTS = 3  # within one of our attempts


def is_remote(path: str | PurePath) -> bool:
    """Whether a path is an address in an object store."""
    return _ADDRESS.match(str(path)) is not None


def named(path: str | PurePath) -> Address | Path:
    """A path or an address, to which names can be added for a message."""
    return Address.of(path) if is_remote(path) else Path(path)


@dataclass(frozen=True)
class Address:
    """An address in an object store.

    Attributes:
        scheme: one of `SCHEMES`.
        path: bucket, or host and port, and the key; without a slash at the end.
    """

    scheme: str
    path: str

    @classmethod
    def of(cls, path: str | PurePath) -> Address:
        """The address that a path is.

        Raises:
            UserError: it holds credentials, options or parts that no folder can have, or lacks a name after the bucket.
        """
        found = _ADDRESS.match(str(path))
        if found is None:
            raise UserError(f"{path}: must begin with a scheme: write s3://, gs:// or hdfs:// before the bucket")
        scheme, rest = found.groups()
        rest = rest.strip("/")
        if str(path).startswith("hdfs:///"):
            rest = f"default/{rest}"  # libhdfs's name of the namenode that its settings name
        if "@" in rest.partition("/")[0]:  # not printed, as it may hold a password
            raise UserError(f"{scheme}://...: credentials belong in the environment; leave out what is before the @")
        address = cls(scheme, rest)
        parts = rest.split("/")
        if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
            raise UserError(f"{address}: name a folder or file in a bucket, such as {scheme}://bucket/corpora/raw")
        return address

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def __truediv__(self, name: str) -> Address:
        return Address(self.scheme, f"{self.path}/{name}")

    def overlaps(self, other: Address) -> bool:
        """Whether one of two addresses is the other or lies in it."""
        ours, theirs = f"{self}/", f"{other}/"
        return ours.startswith(theirs) or theirs.startswith(ours)

    def service(self) -> str:
        """The name of the service; addresses of two services may be equal."""
        endpoint = s3_endpoint() if self.scheme == "s3" else None
        return f"{self.scheme}-{re.sub(r'[^A-Za-z0-9.-]+', '-', endpoint)}" if endpoint else self.scheme

    def file_system(self) -> tuple[Any, str]:
        """The pyarrow file system and the path in it.

        Raises:
            OSError: the file system cannot be reached.
        """
        bucket = self.path.partition("/")[0]
        if self.scheme == "hdfs":
            return _other(f"hdfs://{bucket}"), self.path.removeprefix(bucket)
        if self.scheme == "gs":
            return _other(f"gs://{bucket}?retry_limit_seconds={_REQUEST_S}"), self.path
        return _s3(bucket if s3_endpoint() is None else "", s3_endpoint()), self.path


def s3_endpoint() -> str | None:
    """The URL of an S3-compatible server that the environment names; None for Amazon's."""
    return secret("AWS_ENDPOINT_URL_S3") or secret("AWS_ENDPOINT_URL")


@lru_cache(maxsize=64)
def _s3(bucket: str, endpoint: str | None) -> Any:
    from pyarrow import fs

    named = secret("AWS_REGION") or secret("AWS_DEFAULT_REGION")
    place: dict[str, Any] = {"region": named} if named else {}
    if endpoint:
        scheme, is_url, host = endpoint.rpartition("://")
        place |= {"endpoint_override": host.rstrip("/"), "scheme": scheme if is_url else "https"}
    elif not named:
        place["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_SDK_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small file
        check_directory_existence_before_creation=True,
        **place,
    )


@lru_cache(maxsize=64)
def _other(uri: str) -> Any:
    from pyarrow import fs

    return fs.FileSystem.from_uri(uri)[0]
