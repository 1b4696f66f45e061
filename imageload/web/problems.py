"""An error is always an RFC 9457 problem document: never a traceback, never HTML."""

from __future__ import annotations

import errno
import http
import logging
from typing import Any

import msgspec
import tornado.iostream
import tornado.web

from imageload.errors import Refused
from imageload.schemas import ProblemJson
from imageload.web.front import Front
from imageload.web.request_id import request_id

_log = logging.getLogger(__name__)

PROBLEM = "urn:imageload:problem:"


class Problem(tornado.web.HTTPError):
    """An answer that is a problem document: `slug` for programs, the rest for people."""

    def __init__(self, status: int, slug: str, title: str, detail: str) -> None:
        super().__init__(status)
        self.slug, self.title, self.detail = slug, title, detail


class ProblemHandler(tornado.web.RequestHandler):
    """A handler whose errors are problem documents, and whose answers all have the same headers."""

    request_id: str = ""
    """The request's name, in its answer and in the log."""

    @property
    def front(self) -> Front:
        """What all requests share."""
        front: Front = self.settings["front"]
        return front

    def set_default_headers(self) -> None:
        """Called by Tornado before anything else is set, and again before an error is answered."""
        self.request_id = self.request_id or request_id(self.request.headers.get("X-Request-ID"))
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Request-ID", self.request_id)
        for name, value in self.front.access.cors_headers(self.request).items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what went wrong as a problem document; called by Tornado."""
        error = _meaning(kwargs.get("exc_info", (None, None, None))[1])
        if self.request.method not in self.SUPPORTED_METHODS:
            self.set_header("Connection", "close")  # Tornado will not read its body
        if isinstance(error, Refused):
            self.finish(self._refusal(error))
            return
        if isinstance(error, Problem):
            slug, title, detail = error.slug, error.title, error.detail
        else:
            slug, title, detail = self._plain_problem(status_code)
        self.finish(self._problem(status_code, slug, title, detail))

    def _refusal(self, refused: Refused) -> bytes:
        if refused.retry_after is not None:
            self.set_header("Retry-After", str(refused.retry_after))
        for name, value in refused.headers.items():
            self.set_header(name, value)
        return self._problem(refused.status, refused.slug, refused.title, str(refused))

    def _problem(self, status: int, slug: str, title: str, detail: str) -> bytes:
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        body: ProblemJson = {
            "type": PROBLEM + slug,
            "title": title,
            "status": status,
            "detail": detail,
            "instance": f"urn:imageload:request:{self.request_id}",
        }
        return msgspec.json.encode(body)

    def _plain_problem(self, status: int) -> tuple[str, str, str]:
        phrase = http.HTTPStatus(status).phrase
        slug = phrase.lower().replace(" ", "-")
        if status == 405:
            allowed = ", ".join(self.allowed_methods())
            self.set_header("Allow", allowed)
            return slug, phrase, f"This path takes {allowed or 'no method'}."
        if status == 404:
            return slug, phrase, "There is nothing at this path; the README lists what there is."
        if status >= 500:
            return slug, phrase, "A bug in the service; its log has more."
        return slug, phrase, "The request is not as this path takes it."

    def allowed_methods(self) -> list[str]:
        """The methods that this handler takes."""
        own = [m for m in ("GET", "POST", "DELETE") if self._takes(m.lower())]
        with_head = ["GET", "HEAD", *own[1:]] if "GET" in own else own
        return [*with_head, "OPTIONS"]

    def _takes(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(tornado.web.RequestHandler, method)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a bug with its traceback, and nothing of what a client did wrong; by Tornado."""
        clients = (Refused, tornado.web.HTTPError, tornado.iostream.StreamClosedError)
        meaning = _meaning(value)
        if isinstance(meaning, Refused) and meaning.slug == "out-of-files":
            _log.warning("no more files can be opened path=%s", self.request.path)
        elif not isinstance(meaning, clients):
            _log.error("a request met a bug path=%s", self.request.path, exc_info=(typ, value, tb))


def _meaning(error: BaseException | None) -> BaseException | None:
    """`error`, or what is to be answered in its place."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Refused(
            "out-of-files", "The service may open no more files for now. Ask again in a while."
        )
    return error
