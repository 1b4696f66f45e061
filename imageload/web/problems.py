"""Errors as problem documents (RFC 9457): never a traceback, never HTML."""

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
from imageload.settings import Settings
from imageload.web.limits import RequestLimits
from imageload.web.logs import request_id

_log = logging.getLogger(__name__)

PROBLEM = "urn:imageload:problem:"


def unknown_job() -> Refused:
    """The error for a jobId that is not known; its status is an option of the service."""
    return Refused(
        "unknown-job",
        "There is no job with this jobId. The service keeps finished jobs for a week, and at most "
        "--keep-jobs of them. Without --store, jobs are lost at a restart.",
    )


class ProblemHandler(tornado.web.RequestHandler):
    """A handler whose errors are problem documents, with the headers of every response."""

    service_settings: Settings

    request_id: str = ""
    """The request's id, in its response and in the log."""

    @property
    def limits(self) -> RequestLimits:
        """What all requests share."""
        limits: RequestLimits = self.settings["limits"]
        return limits

    def set_default_headers(self) -> None:
        """Called by Tornado before the request is handled, and again before an error response."""
        self.request_id = self.request_id or request_id(self.request.headers.get("X-Request-ID"))
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Request-ID", self.request_id)
        for name, value in self.limits.access.cors_headers(self.request).items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado to send the response to an error."""
        error = _as_refusal(kwargs.get("exc_info", (None, None, None))[1])
        if self.request.method not in self.SUPPORTED_METHODS:
            self.set_header("Connection", "close")  # Tornado does not read its body
        if isinstance(error, Refused):
            self.finish(self.encode_refusal(error))
        else:
            phrase = http.HTTPStatus(status_code).phrase
            slug = phrase.lower().replace(" ", "-")
            self.finish(self._encode(status_code, slug, phrase, self._detail(status_code)))

    def encode_refusal(self, refused: Refused) -> bytes:
        """Set the status and headers of `refused`; returns the body."""
        if refused.retry_after is not None:
            self.set_header("Retry-After", str(refused.retry_after))
        for name, value in refused.headers.items():
            self.set_header(name, value)
        is_unknown = refused.slug == "unknown-job"
        status = self.service_settings.unknown_job_status if is_unknown else refused.status
        return self._encode(status, refused.slug, refused.title, str(refused))

    def _encode(self, status: int, slug: str, title: str, detail: str) -> bytes:
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        body: ProblemJson = {
            "type": PROBLEM + slug,
            "title": title,
            "status": status,
            "detail": detail,
            "instance": f"urn:imageload:request:{self.request_id}",
        }
        return msgspec.json.encode(body) + b"\n"

    def _detail(self, status: int) -> str:
        if status == 405:
            allowed = ", ".join(self.allowed_methods())
            self.set_header("Allow", allowed)
            return f"This path takes {allowed or 'no method'}."
        if status == 404:
            return "There is nothing at this path. /docs lists the API's paths."
        if status >= 500:
            return "A bug in the service. Its log has the details."
        return "The request is malformed."

    def allowed_methods(self) -> list[str]:
        """The methods that this handler takes."""
        own = [m for m in ("GET", "POST", "DELETE") if self._takes(m.lower())]
        with_head = ["GET", "HEAD", *own[1:]] if "GET" in own else own
        return [*with_head, "OPTIONS"]

    def _takes(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(tornado.web.RequestHandler, method)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Called by Tornado: log a bug with its traceback, and no mistake of a client."""
        error = _as_refusal(value)
        if isinstance(error, Refused) and error.slug == "out-of-files":
            _log.warning("no more files can be opened path=%s", self.request.path)
        elif not isinstance(
            error, (Refused, tornado.web.HTTPError, tornado.iostream.StreamClosedError)
        ):
            _log.error("a request met a bug path=%s", self.request.path, exc_info=(typ, value, tb))


def _as_refusal(error: BaseException | None) -> BaseException | None:
    """`error`, or a Refused if the process is out of file descriptors."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        message = "The service cannot open more files at the moment. Try again later."
        return Refused("out-of-files", message)
    return error
