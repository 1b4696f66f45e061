"""The options of the service: name, default, unit and effect of each.

`imageload.options` reads them from flags and the environment. Numbers that no operator has to
choose are in `imageload.tuning`. Nothing here does I/O.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Any

VERSION = "0.1.0"
SANDBOX_CLIENT_ID = "sandbox"

BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What can be shown as a token (RFC 6750's b64token)."""

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_CLIENT_ID = re.compile(r"[\x21-\x7e]+")
_SITE = re.compile(r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")


GROUPS = {
    "server": "the HTTP server",
    "jobs": "jobs and their callbacks",
    "fetch": "downloads from origins",
    "convert": "conversion of images that the target refuses",
    "targets": "uploads to Imgur, to the sandbox in its place, or to a bucket",
    "store": "jobs that are kept after the process has ended",
}
"""The groups of options, in the order of `--help`, and what each concerns."""


def _option(
    group: str, default: object, unit: str, effect: str, *, secret: bool = False, was: str = ""
) -> Any:
    """A field with its metadata. `secret`: never shown; `was`: an older name that still works."""
    metadata = {"group": group, "unit": unit, "effect": effect, "was": was}
    return field(default=default, repr=not secret, metadata=metadata)


_server, _jobs, _fetch, _convert, _targets, _store = (
    functools.partial(_option, group) for group in GROUPS
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Every option with its default. Raises ValueError if two of them contradict each other."""

    port: int = _server(8888, "port", "Listens on this TCP port; 0 takes any free port")
    address: str = _server(
        "127.0.0.1", "address", "Listens on this address; the default accepts only this machine"
    )
    allow_host: tuple[str, ...] = _server(
        (), "names", "Accepts requests for these host names too, for example those of a proxy"
    )
    cors_origin: tuple[str, ...] = _server(
        (), "names", "Lets pages of these sites use the API, for example https://app.example"
    )
    api_token: tuple[str, ...] = _server(
        (), "names", "Requires one of these tokens in `Authorization: Bearer`", secret=True
    )
    api_token_file: str = _server("", "path", "Reads more tokens from this file, one a line")
    max_connections: int = _server(
        4_000, "count", "Keeps this many connections open; above it the longest idle one is closed"
    )
    unknown_job_status: int = _server(
        505, "status", "Answers an unknown jobId with this status, 505 or 404"
    )
    log_level: str = _server("INFO", "level", "Logs at this level: DEBUG, INFO, WARNING or ERROR")
    log_format: str = _server("text", "format", "Logs as text, or as json for log collectors")

    max_urls: int = _jobs(100_000, "count", "Rejects a job with more URLs than this")
    max_body_bytes: int = _jobs(
        32 * 2**20, "bytes", "Rejects a larger request body; bodies are held in memory"
    )
    max_active_jobs: int = _jobs(
        64,
        "count",
        "Runs this many jobs at the same time, each with a thread; others wait. Jobs that only "
        "wait for their origins do not count",
    )
    max_tries: int = _jobs(
        4, "count", "Tries a download or an upload this often, the first try included"
    )
    jobs_bytes: int = _jobs(
        2**30,
        "bytes",
        "Rejects new jobs if unfinished ones use this much memory; drops finished ones for space",
    )
    keep_jobs: int = _jobs(
        10_000, "count", "Keeps this many finished jobs in memory; the oldest are dropped first"
    )
    grace_seconds: float = _jobs(
        25.0, "seconds", "Waits this long at a stop for the uploads that are in flight"
    )
    callback_secret: str = _jobs(
        "",
        "text",
        "Signs callbacks with this secret: whsec_ and base64 (Standard Webhooks), or a plain text",
        secret=True,
    )

    downloads: int = _fetch(
        32, "count", "Downloads this many images at the same time, shared fairly among the jobs"
    )
    per_host: int = _fetch(8, "count", "Downloads this many images of one host at the same time")
    download_seconds: float = _fetch(
        60.0, "seconds", "Ends a download after this time, name lookup and redirects included"
    )
    max_bytes: int = _fetch(20 * 2**20, "bytes", "Rejects a larger image while it is downloaded")
    allow_origin: tuple[str, ...] = _fetch(
        (), "names", "Allows downloads from these private addresses, networks or host names"
    )
    deny_origin: tuple[str, ...] = _fetch(
        (), "names", "Forbids downloads from these, also if --allow-origin names them"
    )
    reject_sha256: tuple[str, ...] = _fetch(
        (),
        "names",
        "Fails images with these SHA-256s, for example placeholders that an origin sends",
    )
    origin_proxy: str = _fetch(
        "", "URL", "Downloads through this proxy, which then has to refuse private addresses"
    )
    user_agent: str = _fetch(
        f"imageload/{VERSION} (fetches images for its users)",
        "text",
        "Sends this User-Agent to origins and to Imgur; name a contact in it",
    )
    temp_dir: str = _fetch(
        "",
        "path",
        "Keeps temp files in a folder below this one; empty: beside the store's file, or without "
        "a store in the system's temp folder",
    )
    temp_bytes: int = _fetch(
        2 * 2**30, "bytes", "Pauses downloads before the temp files have more bytes than this"
    )

    convert: bool | None = _convert(
        None,
        "true or false",
        "Converts WebP, AVIF, HEIC and BMP to types that Imgur accepts; not set: only for Imgur",
    )
    shrink: bool = _convert(
        False,
        "true or false",
        "Recompresses images that are larger than --imgur-max-bytes, also for a bucket",
    )
    strip: str = _convert(
        "auto",
        "auto, true or false",
        "Removes GPS and all other metadata before an upload; auto: as far as possible, if the "
        "target does not; true: always, or fails the image",
    )
    convert_bytes: int = _convert(
        1_536 * 2**20,
        "bytes",
        "Gives all conversions together this much memory; images that need more fail",
    )

    target: str = _targets(
        "imgur", "imgur or s3 URL", "Uploads to Imgur, or to this bucket: s3://BUCKET/PREFIX"
    )
    s3_endpoint: str = _targets(
        "", "URL", "Uses the bucket of this S3 service, https://HOST; empty: AWS"
    )
    s3_region: str = _targets("us-east-1", "text", "Signs requests for this region of the bucket")
    s3_public_url: str = _targets(
        "",
        "URL",
        "Begins links with this, for example with a CDN's URL; empty: the bucket's own URL",
    )
    aws_access_key_id: str = _targets(
        "", "text", "Signs requests to the bucket with this key", secret=True
    )
    aws_secret_access_key: str = _targets(
        "", "text", "Signs requests with the secret of that key", secret=True
    )
    aws_session_token: str = _targets(
        "", "text", "Sends the token that belongs to a temporary key", secret=True
    )
    uploads: int = _targets(
        32, "count", "Uploads this many images at the same time, shared fairly among the jobs"
    )
    upload_seconds: float = _targets(
        120.0, "seconds", "Ends an upload after this time, the response included"
    )
    retry_lost: bool = _targets(
        True,
        "true or false",
        "Uploads again after a lost response; the image may then be on Imgur twice, but not in a "
        "bucket",
    )
    outage_seconds: float = _targets(
        21_600.0, "seconds", "Fails images after the target has been unavailable for this time"
    )
    imgur_client_id: str = _targets(
        "", "text", "Uploads with this Imgur client id; empty: starts the sandbox", secret=True
    )
    client_ids: tuple[str, ...] = _targets(
        (),
        "names",
        "Uploads with these ids too: id, or id=credits-an-hour/credits-a-day; IMGUR_CLIENT_ID may "
        "have this form too",
        secret=True,
    )
    imgur_client_secret: str = _targets(
        "", "text", "Renews access tokens with this secret; needs a refresh token", secret=True
    )
    imgur_refresh_token: str = _targets(
        "", "text", "Signs in to an Imgur account with this refresh token", secret=True
    )
    imgur_anonymous: bool = _targets(
        True, "true or false", "Uploads anonymously; false uploads to the refresh token's account"
    )
    imgur_base_url: str = _targets(
        "", "URL", "Sends API requests to this gateway instead of https://api.imgur.com/"
    )
    imgur_link_base: str = _targets(
        "https://i.imgur.com/", "URL", "Accepts only image links that begin with this"
    )
    imgur_rapidapi_key: str = _targets(
        "", "text", "Sends this key to RapidAPI's gateway", secret=True
    )
    imgur_max_bytes: int = _targets(
        10 * 2**20, "bytes", "Shrinks or fails a larger image before its upload"
    )
    sandbox_port: int = _targets(
        8889, "port", "Starts the sandbox on this TCP port; 0 takes any free port"
    )
    sandbox_dir: str = _targets(".sandbox", "path", "Keeps the sandbox's images in this folder")
    sandbox_limits: bool = _targets(
        False, "true or false", "Gives the sandbox Imgur's real budgets (50 uploads an hour)"
    )

    store: str = _store(
        "",
        "path",
        "Keeps jobs in this file, so that they continue after a restart; empty: in memory",
        was="journal",
    )

    egress: str = _store(
        "",
        "text",
        "With PostgreSQL: names the address from which this node uploads; nodes of one address "
        "share a name; empty: the host's name",
    )
    role: str = _store(
        "node", "node, api or worker", "With PostgreSQL: serves the API, works on images, or both"
    )
    dead_seconds: float = _store(
        60.0,
        "seconds",
        "With PostgreSQL: takes over the images of a worker that is silent for this time; the "
        "same on all nodes",
    )

    def __post_init__(self) -> None:
        self._check_forms()
        self._check_clients()
        if self.temp_bytes < 2 * self.downloads * self.max_bytes:
            least = 2 * self.downloads * self.max_bytes
            raise ValueError(
                f"--temp-bytes must be at least {least:,}: twice --downloads x --max-bytes, for "
                "downloads and uploads in flight"
            )
        self._check_target()

    def _check_forms(self) -> None:
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("--log-level must be DEBUG, INFO, WARNING or ERROR")
        if self.log_format not in ("text", "json"):
            raise ValueError("--log-format must be text or json")
        if self.strip not in ("auto", "true", "false"):
            raise ValueError("--strip must be auto, true or false")
        if not all(_SITE.fullmatch(site) for site in self.cors_origin):
            raise ValueError(
                "--cors-origin must be a scheme and a host without a path: https://app.example"
            )
        if not all(BEARER_TOKEN.fullmatch(token) for token in self.api_token):
            raise ValueError(
                "--api-token may have letters, digits and ._~+/-; commas separate tokens"
            )
        if not all(_SHA256.fullmatch(digest) for digest in self.reject_sha256):
            raise ValueError("--reject-sha256 must have SHA-256s of 64 hexadecimal digits each")
        if self.role not in ("node", "api", "worker"):
            raise ValueError("--role must be node, api or worker")
        if self.role != "node" and not self.is_node:
            raise ValueError(f"--role={self.role} needs --store=postgresql://...")
        if self.unknown_job_status not in (404, 505):
            raise ValueError("--unknown-job-status must be 505 or 404")

    def _check_clients(self) -> None:
        if not self.imgur_anonymous and not self.imgur_refresh_token:
            raise ValueError("--imgur-anonymous=false needs IMGUR_REFRESH_TOKEN")
        if self.imgur_refresh_token and not self.imgur_client_secret:
            raise ValueError("IMGUR_REFRESH_TOKEN needs IMGUR_CLIENT_SECRET beside it")
        ids = [client_id for client_id, _, _ in self.clients]
        if not all(_CLIENT_ID.fullmatch(client_id) for client_id in ids if client_id):
            raise ValueError("IMGUR_CLIENT_ID, or an id in --client-ids, is blank or has a space")
        if not ids[0] and len(ids) > 1:
            raise ValueError("--client-ids adds ids to IMGUR_CLIENT_ID, which is not set")
        if len(set(ids)) < len(ids):
            raise ValueError("--client-ids and IMGUR_CLIENT_ID have the same id twice")

    def _check_target(self) -> None:
        if self.is_s3 and not (self.aws_access_key_id and self.aws_secret_access_key):
            raise ValueError(
                "--target=s3://... needs the bucket's keys in the environment: AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY"
            )
        if not self.is_s3 and (self.s3_endpoint or self.s3_public_url):
            raise ValueError("--s3-endpoint and --s3-public-url need --target=s3://BUCKET/PREFIX")
        if not self.is_s3 and self.target != "imgur":
            raise ValueError("--target must be imgur or s3://BUCKET/PREFIX")
        if self.imgur_base_url and not self.imgur_base_url.startswith(("http://", "https://")):
            raise ValueError("--imgur-base-url must be an http or https URL")

    @property
    def is_node(self) -> bool:
        """True if the store is a PostgreSQL, which other processes may share."""
        return self.store.startswith(("postgresql://", "postgres://"))

    @property
    def is_sandbox(self) -> bool:
        """True if the sandbox stands in for Imgur."""
        return self.imgur_client_id == SANDBOX_CLIENT_ID

    @property
    def is_s3(self) -> bool:
        """True if images go to a bucket."""
        return self.target.startswith("s3://")

    @property
    def clients(self) -> list[tuple[str, int | None, int | None]]:
        """Every client id, with its credits an hour and a day where they are named."""
        main = client_budgets(self.imgur_client_id) if self.imgur_client_id else ("", None, None)
        return [main, *map(client_budgets, self.client_ids)]


def client_budgets(entry: str) -> tuple[str, int | None, int | None]:
    """The client id in `entry`, and its credits an hour and a day where it has them.

    Raises ValueError for another form.
    """
    client_id, _, budgets = entry.partition("=")
    hour, _, day = budgets.partition("/")
    if not client_id or any(text and not text.isdecimal() for text in (hour, day)):
        raise ValueError(
            "IMGUR_CLIENT_ID and --client-ids are written as id or id=credits-an-hour/credits-a-day"
        )
    return client_id, int(hour) if hour else None, int(day) if day else None
