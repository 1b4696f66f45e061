"""OAuth tokens: the valid access tokens and refresh tokens.

They are in memory only: after a restart a client refreshes, as after an expiry. There is one
account. Every refresh token is valid for it, unless the options list the valid ones.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from .envelope import ApiError
from .options import Options, listed

ACCOUNT_ID = 1_000_001
ACCOUNT_NAME = "sandbox"


class Tokens:
    """The tokens of one sandbox. Used from the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._access: dict[str, tuple[float, str]] = {}  # token → (expiry, client id)
        self._spent: set[str] = set()
        self._issued: set[str] = set()

    def refresh(self, refresh_token: str, client_id: str, options: Options) -> dict[str, object]:
        """The bare JSON of POST /oauth2/token; ApiError 400 for an invalid token."""
        exist = listed(options.refresh_tokens) | self._issued
        unknown = bool(options.refresh_tokens) and refresh_token not in exist
        if not refresh_token or unknown or refresh_token in self._spent:
            raise ApiError(400, "Invalid refresh token")
        if options.rotate_refresh_tokens:
            self._spent.add(refresh_token)
            refresh_token = secrets.token_hex(20)
            self._issued.add(refresh_token)
        return self.issue(client_id, options.token_seconds, refresh_token)

    def issue(
        self, client_id: str, seconds: float, refresh_token: str | None = None
    ) -> dict[str, object]:
        """A new access token that expires after `seconds`."""
        access_token = secrets.token_hex(20)
        if refresh_token is None:
            refresh_token = secrets.token_hex(20)
            self._issued.add(refresh_token)
        self._access[access_token] = (self._clock() + seconds, client_id)
        return {
            "access_token": access_token,
            "expires_in": int(seconds),
            "token_type": "bearer",
            "scope": None,
            "refresh_token": refresh_token,
            "account_id": ACCOUNT_ID,
            "account_username": ACCOUNT_NAME,
        }

    def client_of(self, access_token: str) -> str | None:
        """The client id of a valid token; None for an expired or unknown one."""
        expires_at, client_id = self._access.get(access_token, (0.0, ""))
        if self._clock() < expires_at:
            return client_id
        self._access.pop(access_token, None)
        return None
