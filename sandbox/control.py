"""/sandbox/…: the control API for tests, which Imgur does not have. For loopback peers only.

A page in a browser of this machine is a loopback peer too, so requests with an Origin header, or
with a Host that is not this machine, are refused as well.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

from tornado.web import HTTPError, RequestHandler

from .access import is_loopback
from .faults import read_fault
from .state import State

LONGEST_WAIT = 60.0


class Control(RequestHandler):
    """Base of the control handlers: access, JSON requests, JSON responses."""

    def initialize(self, state: State) -> None:
        self.state = state

    def prepare(self) -> None:
        name = self.request.host_name
        if not is_loopback(self.request.remote_ip or "") or "Origin" in self.request.headers:
            raise HTTPError(403)
        if not (is_loopback(name) or name == self.state.options.address):
            raise HTTPError(403)

    def json_body(self) -> Any:
        """The body as JSON; ValueError if it is not JSON."""
        try:
            return json.loads(self.request.body)
        except RecursionError as error:
            raise ValueError("the body is nested too deep") from error

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object, {} without a body; ValueError if it is not one."""
        body = self.json_body() if self.request.body else {}
        if not isinstance(body, dict):
            raise ValueError("the body is not a JSON object")
        return body

    def refuse(self, error: ValueError) -> None:
        """Response 400 with the error's message."""
        self.set_status(400)
        self.finish({"error": str(error)})

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish({"error": self._reason, "status": status_code})


class FaultControl(Control):
    """POST /sandbox/faults: queue a fault, or a list of them. DELETE: drop all."""

    def post(self) -> None:
        try:
            body = self.json_body()
            queued = [read_fault(item) for item in (body if isinstance(body, list) else [body])]
        except ValueError as error:
            self.refuse(error)
            return
        for fault in queued:
            self.state.faults.add(fault)
        self.finish({"queued": self.state.faults.queued()})

    def delete(self) -> None:
        self.state.faults.clear()
        self.finish({"queued": []})


class SettingControl(Control):
    """POST /sandbox/settings: change some of the options while the sandbox runs."""

    def post(self) -> None:
        try:
            body = self.json_object()
            self.state.options = self.state.options.changed(body)
        except ValueError as error:
            self.refuse(error)
            return
        self.finish({name: getattr(self.state.options, name) for name in body})


class TokenControl(Control):
    """POST /sandbox/tokens: an access token and a refresh token, as /oauth2/token gives them."""

    def post(self) -> None:
        try:
            body = self.json_object()
            seconds = float(str(body.get("seconds", self.state.options.token_seconds)))
        except ValueError as error:
            self.refuse(error)
            return
        self.finish(self.state.tokens.issue(str(body.get("client_id", "sandbox")), seconds))


class StatControl(Control):
    """GET /sandbox/stats: the counts. ?wait=upload:3&seconds=10 waits for 3 upload requests."""

    async def get(self) -> None:
        route, _, count = self.get_query_argument("wait", "").partition(":")
        try:
            least = int(count or 1)
            seconds = min(float(self.get_query_argument("seconds", "10")), LONGEST_WAIT)
        except ValueError as error:
            self.refuse(error)
            return
        if route:
            try:
                async with asyncio.timeout(seconds):
                    await self.state.stats.reach(route, least)
            except TimeoutError:
                self.set_status(408)
        self.finish(counts(self.state))


class ImageControl(Control):
    """GET /sandbox/images: every stored image, oldest first, with deletehashes."""

    def get(self) -> None:
        self.finish({"images": [asdict(image) for image in self.state.store.images()]})


def counts(state: State) -> dict[str, object]:
    stats = state.stats
    return {
        "requests": dict(stats.requests),
        "answers": {str(status): count for status, count in stats.answers.items()},
        "uploads": stats.uploads,
        "uploads_now": stats.uploads_now,
        "uploads_at_most": stats.uploads_at_most,
        "refused_429": stats.answers[429],
        "connections": stats.connections,
        "oauth_refreshes": stats.refreshes,
        "images": len(state.store.images()),
        "stored": dict(state.store.stored),
        "faults_met": dict(state.faults.met),
        "faults_queued": state.faults.queued(),
    }
