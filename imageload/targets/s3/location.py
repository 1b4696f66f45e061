"""Where a bucket is, and where its objects are seen. Nothing here does I/O.

https://BUCKET.s3.REGION.amazonaws.com/PREFIX/KEY     AWS (virtual-hosted style)
ENDPOINT/BUCKET/PREFIX/KEY                            elsewhere (path style)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

# AWS's rules; other services take fewer names, and none takes more.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_REGION = re.compile(r"[a-z0-9-]+")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_PUBLIC = re.compile(r"https?://[A-Za-z0-9_.:\[\]-]+(/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A bucket, and the prefix of our objects' keys in it. Raises ValueError for a wrong option."""

    bucket: str
    prefix: str = ""
    """Empty, or with a slash at its end."""
    region: str = "us-east-1"
    endpoint: str = ""
    """Empty: AWS."""
    public_url: str = ""
    """What the links of the bucket's objects begin with; empty: `url`."""

    @classmethod
    def of(cls, target: str, *, region: str, endpoint: str, public_url: str) -> Location:
        """The location that the options of these names give."""
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not target.startswith("s3://") or not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise ValueError(
                "--target must be imgur or s3://BUCKET/PREFIX; a bucket's name has 3 to 63 small "
                "letters, digits, dots and hyphens"
            )
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(
                "--target=s3://BUCKET/PREFIX: the prefix has letters, digits and ._- between "
                "slashes, and no part of it begins with a dot"
            )
        endpoint, public_url = endpoint.rstrip("/"), public_url.rstrip("/")
        if endpoint and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError(
                "--s3-endpoint is http:// or https:// and a host, without bucket and path"
            )
        if public_url and not _PUBLIC.fullmatch(public_url):
            raise ValueError(
                "--s3-public-url is an http or https URL without query: what the links of the "
                "bucket's objects begin with"
            )
        if not _REGION.fullmatch(region):
            raise ValueError("--s3-region is the region's name, such as eu-central-1")
        return cls(
            bucket=bucket,
            prefix=f"{prefix}/" if prefix else "",
            region=region,
            endpoint=endpoint,
            public_url=public_url,
        )

    @property
    def url(self) -> str:
        """The bucket's URL, for requests."""
        if self.endpoint:
            return f"{self.endpoint}/{self.bucket}"
        host = f"s3.{self.region}.amazonaws.com"
        if "." in self.bucket:  # AWS has no certificate for such a host
            return f"https://{host}/{self.bucket}"
        return f"https://{self.bucket}.{host}"

    @property
    def host(self) -> str:
        """The host that requests go to."""
        return urlsplit(self.url).hostname or ""

    @property
    def link_base(self) -> str:
        """What our links begin with; the rest is the name of an object."""
        return f"{self.public_url or self.url}/{self.prefix}"

    @property
    def name(self) -> str:
        """`s3://BUCKET/PREFIX`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")
