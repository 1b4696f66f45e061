"""The options of the sandbox: default, unit, description. Sizes are Imgur's unless stated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one sandbox. Sizes in bytes, times in seconds, lists comma-separated."""

    port: Annotated[int, "port to listen on; 0 picks a free one"] = 8889
    address: Annotated[str, "address to listen on"] = "127.0.0.1"
    dir: Annotated[Path, "where the images are kept; links survive a restart"] = Path(".sandbox")
    link_base: Annotated[str, "what links begin with; empty: the address listened on"] = ""
    cert: Annotated[str, "PEM certificate chain: serve TLS instead of plain HTTP"] = ""
    key: Annotated[str, "PEM private key of --cert"] = ""
    exit_with_parent: Annotated[bool, "exit when standard input reaches its end"] = False
    verbose: Annotated[bool, "log one line a request on standard error"] = False

    client_ids: Annotated[str, "the client ids that exist; empty: any"] = ""
    refresh_tokens: Annotated[str, "the refresh tokens that exist; empty: any"] = ""
    token_seconds: Annotated[
        int, "how long an access token lives (ten years in answers seen in 2020)"
    ] = 315_360_000
    rotate_refresh_tokens: Annotated[bool, "a refresh token works once"] = False

    max_image_bytes: Annotated[int, "largest image; the API page says 10 MB"] = 10 * 1024 * 1024
    fetch_urls: Annotated[
        bool, "fetch type=url uploads from any address; unsafe if strangers can post"
    ] = False
    region_blocked: Annotated[
        bool, "serve the picture of a blocked region in place of any image (windhawk#743)"
    ] = False
    data_centre: Annotated[
        bool, "answer 429 to every request for an image, as to data centres (imagehoster#62)"
    ] = False
    recompress: Annotated[
        bool, "make JPEGs of PNGs over 5 MB, of other anonymous stills over 1 MB, PNGs of TIFFs"
    ] = False
    body_seconds: Annotated[float, "longest time for one request body to arrive"] = 300.0
    idle_seconds: Annotated[float, "longest silence on a kept-alive connection"] = 75.0

    user_credits: Annotated[int, "credits an hour for one IP and client (ShareX#7289)"] = 500
    account_credits: Annotated[int, "credits an hour for one account (ShareX#7289)"] = 2000
    client_credits: Annotated[int, "credits a day for one client id"] = 12_500
    daily_hits: Annotated[
        int, "days on which a client id uses up its credits before a month's block; 0: no block"
    ] = 5
    posts: Annotated[int, "POSTs an hour for one IP"] = 1250
    hour_seconds: Annotated[float, "length of the hour the limits count in"] = 3600.0
    day_seconds: Annotated[float, "length of the day the limits count in"] = 86_400.0
    month_seconds: Annotated[float, "length of the month of --daily-hits"] = 2_592_000.0
    unlimited: Annotated[bool, "refuse nothing, and name no limits"] = False
    reset: Annotated[
        str, "what X-RateLimit-UserReset holds: seconds (since 2021), epoch (2017), none"
    ] = "seconds"
    limit_shape: Annotated[int, "error shape of a 429: 1 to 4, see sandbox/envelope.py"] = 3
    old_shape: Annotated[bool, "answer uploads as until 2023"] = False

    def __post_init__(self) -> None:
        for name in ("max_image_bytes", "user_credits", "account_credits", "client_credits"):
            _require(getattr(self, name) >= 1, f"--{flag(name)} must be at least 1")
        for name in ("token_seconds", "body_seconds", "idle_seconds"):
            _require(getattr(self, name) > 0, f"--{flag(name)} must be above 0")
        _require(self.posts >= 1, "--posts must be at least 1")
        _require(self.daily_hits >= 0, "--daily-hits must be at least 0")
        for name in ("hour_seconds", "day_seconds", "month_seconds"):
            _require(getattr(self, name) > 0, f"--{flag(name)} must be above 0")
        _require(0 <= self.port <= 65535, "--port must be between 0 and 65535")
        _require(self.reset in RESET_STYLES, f"--reset must be one of {', '.join(RESET_STYLES)}")
        _require(self.limit_shape in (1, 2, 3, 4), "--limit-shape must be 1, 2, 3 or 4")
        _require(bool(self.cert) == bool(self.key), "--cert and --key go together")

    def changed(self, changes: dict[str, object]) -> Options:
        """These options with some of SETTINGS changed; ValueError for any other name."""
        for name, value in changes.items():
            if name not in SETTINGS:
                raise ValueError(f"{name} is not a setting; these are: {', '.join(SETTINGS)}")
            kind = type(getattr(self, name))
            if not isinstance(value, (int, float) if kind is float else kind):
                raise ValueError(f"{name} must be of type {kind.__name__}")
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


RESET_STYLES = ("seconds", "epoch", "none")

# The options that POST /sandbox/settings can change.
SETTINGS = (
    "client_ids",
    "refresh_tokens",
    "token_seconds",
    "rotate_refresh_tokens",
    "max_image_bytes",
    "region_blocked",
    "data_centre",
    "recompress",
    "user_credits",
    "account_credits",
    "client_credits",
    "daily_hits",
    "posts",
    "hour_seconds",
    "day_seconds",
    "month_seconds",
    "unlimited",
    "reset",
    "limit_shape",
    "old_shape",
)


def reasons() -> dict[str, str]:
    """The description of each option, for --help."""
    hints = get_type_hints(Options, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def flag(name: str) -> str:
    """The option's name on the command line."""
    return name.replace("_", "-")


def listed(names: str) -> frozenset[str]:
    """The members of a comma-separated option."""
    return frozenset(name.strip() for name in names.split(",") if name.strip())


def _require(truth: bool, sentence: str) -> None:
    if not truth:
        raise ValueError(sentence)
