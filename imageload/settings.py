"""Every limit and switch of the service: its default, its unit, and the reason for it.

A `Config` is a frozen value, made once by `parse`: a flag beats the environment, which beats the
default. `--max-bytes` is `IMAGELOAD_MAX_BYTES` in the environment; the Imgur options go by the
names they have elsewhere, such as `IMGUR_CLIENT_ID`. It never reads a file and never does I/O.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VERSION = "0.1.0"
SANDBOX_CLIENT_ID = "sandbox"

BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What can be shown as a token (RFC 6750's b64token)."""

_SITE = re.compile(r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _switch(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]


def _seconds(text: str) -> float:
    return _within(float(text), 0.001, math.inf)


def _count(text: str) -> int:
    return int(_within(int(text), 1, math.inf))


def _port(text: str) -> int:
    return int(_within(int(text), 0, 65535))


def _within(value: float, least: float, below: float) -> float:
    if not least <= value <= below or value == math.inf:
        raise ValueError(value)
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "port": _port,
    "seconds": _seconds,
    "hours": _seconds,
    "bytes": _count,
    "bytes/s": _count,
    "count": _count,
    "true or false": _switch,
    "names": _names,
    "status": int,
}


def _reader(unit: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return _READERS.get(unit, str)(text)
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"{text!r} is not what it takes: {unit}") from None

    return read


def _option(default: object, unit: str, reason: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"unit": unit, "reason": reason})


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Every option, with its default. The unit and the reason of each are in its metadata."""

    port: int = _option(8888, "port", "where the service listens; 0 takes any free port")
    address: str = _option(
        "127.0.0.1", "address", "only this machine by default: whoever can post can make us fetch"
    )
    allow_host: tuple[str, ...] = _option(
        (), "names", "more names that requests may be sent to, as a proxy before us passes them on"
    )
    cors_origin: tuple[str, ...] = _option(
        (), "names", "sites whose pages may use the API, as https://app.example; comma between them"
    )
    api_token: tuple[str, ...] = _option(
        (), "names", "what callers show as `Authorization: Bearer`; none: no token", secret=True
    )
    api_token_file: str = _option("", "path", "a file with more of them, one a line")
    max_connections: int = _option(
        4_000, "count", "open connections; past it the longest silent one makes way"
    )
    client_seconds: float = _option(
        10.0, "seconds", "how long a client may make us wait for its head or its body; then 408"
    )
    client_speed_bytes: int = _option(
        1_000, "bytes/s", "so much, sent or taken by a client, gives it a second more"
    )
    idle_seconds: float = _option(
        75.0, "seconds", "a connection between two requests, or an answer that nobody takes"
    )
    max_urls: int = _option(
        100_000, "count", "URLs in one job; a status of 100,000 is some 10 MB of JSON"
    )
    max_lists: int = _option(1_000, "count", "lists, so jobs, in one request")
    max_body_bytes: int = _option(32 * 2**20, "bytes", "a request's body; read into memory whole")
    max_bodies_bytes: int = _option(
        256 * 2**20, "bytes", "the bodies of all requests together; past it 503"
    )
    max_active_jobs: int = _option(
        64, "count", "jobs at work at once, each with a thread; the rest wait in their order"
    )
    max_waiting_jobs: int = _option(
        10_000, "count", "jobs waiting for a thread; past it a POST is answered 429"
    )
    job_window: int = _option(
        64, "count", "images of one job under way at once, so its temp files too"
    )
    downloads: int = _option(
        32, "count", "download threads; n busy jobs get an n+1th each, so one share is always free"
    )
    uploads: int = _option(32, "count", "upload threads, shared in the same way")
    temp_dir: str = _option(
        "", "path", "where the temp files go, in a folder of our own; empty: the system's"
    )
    download_seconds: float = _option(
        60.0, "seconds", "one download from the first DNS packet to the last byte, redirects too"
    )
    connect_seconds: float = _option(5.0, "seconds", "one connect, name lookup and TLS included")
    low_speed_bytes: int = _option(
        1_000, "bytes/s", "an origin slower than this over --low-speed-seconds is given up"
    )
    low_speed_seconds: float = _option(15.0, "seconds", "how long an origin may be too slow")
    max_bytes: int = _option(
        20 * 2**20, "bytes", "one image; Imgur takes stills up to 20 MB, by API often only 10 MB"
    )
    max_pixels: int = _option(
        100_000_000, "count", "width x height, from the header, before anything decodes the image"
    )
    max_header_bytes: int = _option(64 * 2**10, "bytes", "an answer's whole head")
    max_redirects: int = _option(5, "count", "redirects followed for one URL")
    allow_origin: tuple[str, ...] = _option(
        (), "names", "addresses, networks or host names exempt from the guard; comma between them"
    )
    deny_origin: tuple[str, ...] = _option(
        (), "names", "more of them that are never fetched from, also where they are allowed"
    )
    origin_ports: tuple[str, ...] = _option(
        ("80", "443"), "names", "the ports below 1024 that are fetched from; all above are"
    )
    origin_proxy: str = _option(
        "", "URL", "a proxy for downloads; it then decides which addresses are reached, not we"
    )
    allow_downgrade: bool = _option(
        False, "true or false", "true: a redirect may lead from https to http"
    )
    per_host: int = _option(8, "count", "downloads from one origin host at a time: politeness")
    host_failures: int = _option(
        5,
        "count",
        "failures in a row without an answer, after which a host is left alone",
    )
    host_rest_seconds: float = _option(
        5.0,
        "seconds",
        "how long a failing host is left alone before one download tries it again",
    )
    host_wait_seconds: float = _option(
        300.0, "seconds", "the longest pause (Retry-After) that an origin host is given"
    )
    ca_file: str = _option(
        "", "path", "a bundle of certificates to trust; empty: certifi's, which comes along"
    )
    user_agent: str = _option(
        f"imageload/{VERSION} (fetches images for its users)",
        "text",
        "who we say we are to origins and Imgur; put where to complain",
    )
    convert: bool = _option(
        True,
        "true or false",
        "make WebP, AVIF, HEIC and BMP, which Imgur does not take, into others",
    )
    shrink: bool = _option(
        False, "true or false", "recompress what is over --imgur-max-bytes until it fits"
    )
    converters: int = _option(2, "count", "processes that convert, started when there is work")
    convert_seconds: float = _option(30.0, "seconds", "one conversion; then its process is killed")
    max_tries: int = _option(4, "count", "tries of one download or one upload, the first included")
    retry_seconds: float = _option(
        0.5, "seconds", "the wait before the second try; it doubles, with jitter"
    )
    retry_cap_seconds: float = _option(20.0, "seconds", "the longest wait between two tries")
    upload_seconds: float = _option(120.0, "seconds", "one upload to Imgur, answer included")
    retry_lost: bool = _option(
        True,
        "true or false",
        "upload once more when an answer was lost; it may be on Imgur twice then (maybe_duplicate)",
    )
    temp_bytes: int = _option(
        2 * 2**30, "bytes", "temp files while uploads wait for Imgur; downloads pause before it"
    )
    quota_hour_seconds: float = _option(
        3_600.0, "seconds", "the hour of Imgur's hourly budgets, where its answers do not say"
    )
    quota_day_seconds: float = _option(
        86_400.0, "seconds", "the day of its daily budgets, where its answers do not say"
    )
    quota_wait_seconds: float = _option(
        60.0, "seconds", "the wait after a 429 that says nothing; it doubles, up to an hour"
    )
    blocked_wait_seconds: float = _option(
        600.0, "seconds", "the wait after Imgur has refused us as such; it doubles, up to an hour"
    )
    outage_seconds: float = _option(
        21_600.0, "seconds", "how long images wait for Imgur to come back before they fail"
    )
    imgur_client_id: str = _option(
        "", "text", "the id Imgur knows you by; empty: the sandbox stands in for Imgur", secret=True
    )
    client_ids: tuple[str, ...] = _option(
        (),
        "names",
        "more client ids, as id or id=credits-an-hour/credits-a-day; the one with room uploads",
        secret=True,
    )
    imgur_client_secret: str = _option("", "text", "needed only with a refresh token", secret=True)
    imgur_refresh_token: str = _option(
        "", "text", "an account's token, from Imgur's OAuth page", secret=True
    )
    imgur_anonymous: bool = _option(
        True, "true or false", "false puts the uploads into the refresh token's account"
    )
    imgur_base_url: str = _option(
        "", "URL", "a gateway in place of https://api.imgur.com/, RapidAPI's for example"
    )
    imgur_rapidapi_key: str = _option(
        "", "text", "the key that RapidAPI's gateway asks for", secret=True
    )
    imgur_max_bytes: int = _option(
        10 * 2**20, "bytes", "what Imgur takes by its API's page; larger fails as too_large"
    )
    imgur_link_base: str = _option(
        "https://i.imgur.com/", "URL", "what an image's link must begin with to be believed"
    )
    sandbox_port: int = _option(
        8889, "port", "where the sandbox listens when there is no client id; 0: any free port"
    )
    sandbox_dir: str = _option(".sandbox", "path", "where the sandbox keeps its images")
    sandbox_limits: bool = _option(
        False, "true or false", "true: the sandbox has Imgur's real budgets (50 uploads an hour)"
    )
    journal: str = _option(
        "", "path", "where jobs are written down to go on after a restart; empty: they are not"
    )
    keep_jobs: int = _option(
        10_000, "count", "finished jobs in memory; the oldest leave it first, never one that runs"
    )
    keep_hours: float = _option(
        168.0, "hours", "how long after its creation a finished job stays in memory"
    )
    grace_seconds: float = _option(
        25.0, "seconds", "how long uploads under way may take to end when the service is stopped"
    )
    callback_seconds: float = _option(
        10.0, "seconds", "one request to a job's callback, which is made four times at most"
    )
    callback_secret: str = _option(
        "",
        "text",
        "signs what callbacks are told: whsec_ and base64, as Standard Webhooks have it",
        secret=True,
    )
    unknown_job_status: int = _option(
        505, "status", "the answer to an unknown jobId; 404 for those who prefer it"
    )
    max_streams: int = _option(
        2_000, "count", "event streams and held answers at once; at most half of --max-connections"
    )
    keepalive_seconds: float = _option(
        15.0, "seconds", "an idle stream's pause; who takes nothing for as long is dropped"
    )
    max_wait_seconds: float = _option(
        50.0, "seconds", "the most that Prefer: wait is given; proxies often give up after 60"
    )
    log_level: str = _option("INFO", "level", "DEBUG, INFO, WARNING or ERROR")
    log_format: str = _option("text", "format", "text for people, json for what collects logs")

    def __post_init__(self) -> None:
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("--log-level is DEBUG, INFO, WARNING or ERROR")
        if self.log_format not in ("text", "json"):
            raise ValueError("--log-format is text or json")
        if not all(_SITE.fullmatch(site) for site in self.cors_origin):
            raise ValueError("--cors-origin is as browsers say it: https://app.example, no path")
        if not all(BEARER_TOKEN.fullmatch(token) for token in self.api_token):
            raise ValueError("--api-token has letters, digits and ._~+/-, and commas between two")
        if not all(port.isdecimal() and 0 < int(port) < 65536 for port in self.origin_ports):
            raise ValueError("--origin-ports are numbers from 1 to 65535, comma between them")
        if self.unknown_job_status not in (404, 505):
            raise ValueError("--unknown-job-status is 505 or 404")
        if not self.imgur_anonymous and not self.imgur_refresh_token:
            raise ValueError("--imgur-anonymous=false needs IMGUR_REFRESH_TOKEN")
        if self.imgur_refresh_token and not self.imgur_client_secret:
            raise ValueError("IMGUR_REFRESH_TOKEN needs IMGUR_CLIENT_SECRET beside it")
        ids = [client_id for client_id, _, _ in self.clients]
        if not ids[0] and len(ids) > 1:
            raise ValueError("--client-ids are ids beside IMGUR_CLIENT_ID, which is not set")
        if len(set(ids)) < len(ids):
            raise ValueError("--client-ids, with IMGUR_CLIENT_ID, have one of the ids twice")
        signing_key(self.callback_secret)
        if self.temp_bytes < 2 * self.downloads * self.max_bytes:
            least = 2 * self.downloads * self.max_bytes
            raise ValueError(
                f"--temp-bytes is at least {least:,}: twice --downloads x --max-bytes, for that "
                "much may be under way"
            )
        if self.imgur_base_url and not self.imgur_base_url.startswith(("http://", "https://")):
            raise ValueError("--imgur-base-url is an http or https URL")

    @property
    def clients(self) -> list[tuple[str, int | None, int | None]]:
        """Every client id, with its credits an hour and a day where they are named."""
        return [(self.imgur_client_id, None, None), *map(client_budgets, self.client_ids)]


def signing_key(secret: str) -> bytes:
    """The key that a `callback_secret` stands for: base64 behind `whsec_`, else the text itself.

    Raises ValueError where that is no base64, or nothing.
    """
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:  # nothing would be signed by it, and nobody told so
        raise ValueError("--callback-secret: what follows whsec_ is no base64")
    return key


def client_budgets(entry: str) -> tuple[str, int | None, int | None]:
    """The client id in an entry of `client_ids`, its credits an hour and a day where it has them.

    Raises ValueError for another form.
    """
    client_id, _, budgets = entry.partition("=")
    hour, _, day = budgets.partition("/")
    if not client_id or any(text and not text.isdecimal() for text in (hour, day)):
        raise ValueError("--client-ids are written as id or id=credits-an-hour/credits-a-day")
    return client_id, int(hour) if hour else None, int(day) if day else None


def flag(name: str) -> str:
    """The command-line flag of the option `name`."""
    return "--" + name.replace("_", "-")


def environment_name(name: str) -> str:
    """The environment variable of the option `name`."""
    return name.upper() if name.startswith("imgur_") else f"IMAGELOAD_{name.upper()}"


def options() -> tuple[dataclasses.Field[Any], ...]:
    """Every option in its order; `metadata` has its `unit` and its `reason`."""
    return dataclasses.fields(Config)


def show(value: object) -> str:
    """How help and documents write an option's value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _parser(environ: Mapping[str, str], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{'python3 ' * program.endswith('.py')}{program} [--option=value ...]",
        description="Put lists of image URLs on Imgur: POST /v1/images/upload.",
        epilog="A flag beats the environment variable, which beats the default.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    for option in options():
        unit, variable = option.metadata["unit"], environment_name(option.name)
        default = environ.get(variable, option.default)
        text = f"{option.metadata['reason']}. Unit: {unit}; default: {show(option.default)}"
        is_switch = unit == "true or false"
        parser.add_argument(
            flag(option.name),
            dest=option.name,
            nargs="?" if is_switch else None,
            const=True if is_switch else None,
            type=_reader(unit),
            default=default,
            metavar=unit.replace(" ", "-").upper(),
            help=f"{text}; environment: {variable}".replace("%", "%%"),
        )
        if is_switch:
            parser.add_argument(
                flag(f"no_{option.name}"),
                dest=option.name,
                action="store_const",
                const=False,
                default=argparse.SUPPRESS,
                help=f"the same as {flag(option.name)}=false",
            )
    return parser


def parse(
    arguments: Sequence[str], environ: Mapping[str, str], *, program: str = "main.py"
) -> Config:
    """The Config that flags and environment ask for. `program` is the command's name in help.

    Misuse (an unknown flag, a value that cannot be read, options that contradict each other) ends
    the process with status 2 and a sentence on stderr; `--help` and `--version` end it with 0.
    """
    parser = _parser(environ, program)
    values = vars(parser.parse_args(arguments))
    try:
        return Config(**values)
    except ValueError as error:
        parser.error(str(error))
