"""The base of every API call: authorisation, rate limits, the envelope of the response.

Three texts have no public source: "Unauthorized" for another user's image (Imgur's authorise page
has it), "Bad Request" for the form of an album, and the message of a 404 for an unknown endpoint.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from . import envelope
from .body import Form, read_form
from .envelope import ApiError, Asked, Response
from .handler import Handler
from .limits import Caller
from .options import listed
from .store import Album, StoredImage
from .tokens import ACCOUNT_ID


class Api(Handler):
    """A call of /3/…: authorise, charge, answer in an envelope.

    A subclass's on_get, on_post, … return the envelope's `data` or raise ApiError.
    """

    cost = 1
    new_order = False
    caller: Caller

    async def answer(self) -> Response:
        """The envelope, with the rate headers of the caller."""
        asked = self._asked()
        headers: dict[str, str] = {}
        try:
            if self.fault is not None and self.fault.edge:
                return self.fault.answer(asked)
            self.caller = self._authorised()
            headers = self._charged()
            if self.fault is not None and self.fault.status:
                response = self.fault.answer(asked)
            else:
                payload: object = await self.work()
                response = envelope.success(self._with_fault(payload), asked)
        except ApiError as error:
            response = envelope.failure(error, asked)
            if isinstance(error, _OverLimit):
                headers = error.headers
        if self.get_query_argument("_fake_status", "") == "200":
            response = replace(response, status=200)
        return replace(response, headers=headers)

    def _asked(self) -> Asked:
        new_order = self.new_order and not self.old_shape
        return Asked(
            self.request.method or "",
            self.request.path,
            new_order=new_order,
            xml=self.request.path.endswith(".xml"),
            edge=self.fault is not None and self.fault.edge,
        )

    @property
    def old_shape(self) -> bool:
        """Use the response format of uploads until 2023."""
        return self.state.options.old_shape or bool(self.fault and self.fault.old_shape)

    def _authorised(self) -> Caller:
        sent = self.request.headers.get("Authorization")
        if not sent:
            raise ApiError(401, "Authentication required")
        scheme, _, credential = sent.partition(" ")
        ip, credential = self.request.remote_ip or "", credential.strip()
        if scheme.lower() == "client-id":
            if not credential:
                shape = self.state.options.limit_shape
                raise ApiError(429, "Too Many Requests", shape=shape)
            exist = listed(self.state.options.client_ids)
            if exist and credential not in exist:
                raise ApiError(403, "Invalid client_id")
            return Caller(ip, credential)
        if scheme.lower() == "bearer" and credential:
            client_id = self.state.tokens.client_of(credential)
            if client_id is None:
                raise ApiError(403, "The access token provided is invalid.")
            return Caller(ip, client_id, ACCOUNT_ID)
        raise ApiError(403, "Malformed auth header")

    def _charged(self) -> dict[str, str]:
        """The rate headers after this call; ApiError 429 if the budget is too small."""
        options, post = self.state.options, self.request.method == "POST"
        budgets = self.state.limits.charge(self.caller, options, cost=self.cost, post=post)
        headers: dict[str, str] = {}
        if not options.unlimited and (self.fault is None or self.fault.rate_headers):
            headers = self.state.limits.headers(budgets, options.reset, post=post)
        if budgets.refused:
            raise _OverLimit(
                headers, daily=budgets.client.remaining < self.cost, shape=options.limit_shape
            )
        return headers

    def _with_fault(self, payload: object) -> object:
        """The payload with the fault's link, if it has one."""
        if self.fault is None or self.fault.link is None or not isinstance(payload, dict):
            return payload
        if self.fault.link == "":
            return {name: value for name, value in payload.items() if name != "link"}
        return {**payload, "link": self.fault.link.replace("{id}", str(payload.get("id")))}

    async def form(self) -> Form:
        """The fields of the request; ApiError 413 if its body was too large."""
        if self.oversize:
            raise ApiError(413, "file is over the size limit")
        sent = (self.request.headers.get("Content-Type", ""), self.body, self.request.query)
        self.body = b""
        return await self.state.off_loop(len(sent[1]), partial(read_form, *sent))

    def owned_image(self, hash_or_id: str) -> StoredImage:
        """The image of a deletehash, or of an id the caller's account owns; ApiError otherwise."""
        found = self.state.store.image_of_hash(hash_or_id)
        if found is not None:
            return found
        found = self.state.store.image(hash_or_id)
        if found is None:
            raise ApiError(404, f"Unable to find an image with the id, {hash_or_id}")
        if self.caller.account is None or found.account != self.caller.account:
            raise ApiError(403, "Unauthorized")
        return found

    def owned_album(self, hash_or_id: str) -> Album | None:
        """The album of a deletehash, or of an id the caller's account owns."""
        album = self.state.store.album_of_hash(hash_or_id)
        if album is None and self.caller.account is not None:
            album = self.state.store.album(hash_or_id)
            if album is not None and album.account != self.caller.account:
                return None
        return album


class _OverLimit(ApiError):
    """429, with headers that show the remaining budget."""

    def __init__(self, headers: dict[str, str], *, daily: bool, shape: int) -> None:
        is_daily = daily and shape in (1, 2)  # jomo/imgur-screenshot#94
        message = "Daily client requests exceeded" if is_daily else "Too Many Requests"
        super().__init__(429, message, shape=shape)
        self.headers = headers
