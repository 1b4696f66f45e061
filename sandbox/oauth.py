"""POST /oauth2/token: exchanges a refresh token for an access token. No envelope, no charge."""

from __future__ import annotations

import json

from . import envelope
from .body import read_form
from .envelope import ApiError, Asked, Response
from .handler import Handler
from .options import listed


class Token(Handler):
    """POST /oauth2/token: refresh_token, client_id, client_secret, grant_type → tokens."""

    route = "oauth"

    async def on_post(self) -> Response:
        try:
            tokens = self._tokens()
        except ApiError as error:
            return envelope.failure(error, Asked("POST", self.request.path))
        self.state.stats.refreshes += 1
        return Response(200, json.dumps(tokens).encode())

    def _tokens(self) -> dict[str, object]:
        content_type = self.request.headers.get("Content-Type", "")
        form = read_form(content_type, self.body, self.request.query)
        client_id, grant = form.text("client_id"), form.text("grant_type")
        exist = listed(self.state.options.client_ids)
        is_unknown = not client_id or (exist and client_id not in exist)
        if not client_id or is_unknown or not form.text("client_secret"):
            raise ApiError(400, "The client credentials are invalid")
        if grant == "pin":
            raise ApiError(400, "Invalid Pin")
        if grant != "refresh_token":
            raise ApiError(400, "Invalid grant_type parameter or parameter missing")
        refresh_token = form.text("refresh_token") or ""
        return self.state.tokens.refresh(refresh_token, client_id, self.state.options)
