"""Jobs that tell somebody when they have ended: a reader of Changes that POSTs to their callbacks.

    Road ──Change──► Callbacks ──► a lane of the engine ──► the callback's host, under the guard
                                        │ told, or given up
                                        └─► CallbackEnded ──► Job

What is sent, and how it is signed, is as Standard Webhooks 1.0 has it
(https://www.standardwebhooks.com). It is told at least once: who is told twice, because an answer
was lost or the service died, knows it by the jobId. Redirects are not followed.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import io
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from imageload.config import signing_key
from imageload.engine import Lane
from imageload.errors import Failure, InvalidURL
from imageload.guard import check_url
from imageload.job import CallbackEnded, Change, Job, Snapshot
from imageload.transfer import Exchange, Head, Pause, Request, Steps, Transfer, TransferError
from imageload.views import CalledJson, summary_json, utc_text

_log = logging.getLogger(__name__)

CODE = "callback_failed"
_LATER = frozenset({408, 425, 429})

Apply = Callable[[Job, Change], object]


class Callbacks:
    """A reader for a Road's `readers`; may be called from any thread.

    `lane` is one of `transfer`'s. After a failure that may pass it is told again, after each of
    `waits` in turn. With a `secret` what is sent is signed. `apply` makes a Change true of a job.
    """

    def __init__(
        self,
        lane: Lane,
        transfer: Transfer,
        apply: Apply,
        *,
        seconds: float,
        waits: Sequence[float],
        secret: str = "",
    ) -> None:
        self._lane = lane
        self._transfer = transfer
        self._apply = apply
        self._seconds = seconds
        self._waits = waits
        self._key = signing_key(secret)
        self._door = threading.Lock()
        self._under_way: set[str] = set()
        self._stopped = False

    def __call__(self, job: Job, change: Change) -> None:  # noqa: ARG002  # a reader gets both
        """Tell the callback of `job` if it has ended with this."""
        if job.callback is not None:
            self.look(job)

    def restore(self, jobs: Iterable[Job]) -> None:
        """Tell those whose end the process before this one did not."""
        for job in jobs:
            self.look(job)

    def stop(self) -> None:
        """Begin to tell nobody any more: what ends now ends because the service does."""
        with self._door:
            self._stopped = True

    def look(self, job: Job) -> None:
        """Tell the callback of `job` if it has ended, and that is still to be told."""
        state = job.summary()
        if state.callback is None or not state.callback.is_open or not state.finished:
            return
        with self._door:
            if self._stopped or job.job_id in self._under_way:
                return
            self._under_way.add(job.job_id)
        body = msgspec.json.encode(_called_json(state))
        # Versions begin anew with each process, and who is told may drop an id that it has seen.
        message_id = f"{job.job_id}.{secrets.token_hex(4)}"
        steps = functools.partial(self._steps, state.callback.url, message_id, body)
        try:
            self._lane.submit(
                _host(state.callback.url), steps, lambda end: self._ended(job, state.version, end)
            )
        except RuntimeError:
            self._ended(job, state.version, TransferError("stopped", "nothing is taken any more"))

    def _ended(self, job: Job, version: int, end: object) -> None:
        """The end that `job` came to at `version` is told, or given up."""
        if isinstance(end, TransferError):
            _log.warning("not called back before the service stopped job=%s", job.job_id)
            return
        if isinstance(end, BaseException):
            _log.error("a callback met a bug job=%s", job.job_id, exc_info=end)
            end = Failure(CODE, "A bug in the service kept this from being told.", False)
        failure = end if isinstance(end, Failure) else None
        if failure is not None:
            _log.warning("callback failed job=%s reason=%s", job.job_id, failure.message)
        else:
            _log.info("called back job=%s", job.job_id)
        self._apply(job, CallbackEnded(version, failure))
        with self._door:
            self._under_way.discard(job.job_id)
        self.look(job)  # it may have come to another end meanwhile

    def _steps(self, url: str, message_id: str, body: bytes) -> Steps[Failure | None]:
        """Tell it until that is heard: None, or why it was given up."""
        for wait in (*self._waits, None):
            sentence, may_pass = yield from self._told(url, message_id, body)
            if not sentence:
                return None
            if wait is None or not may_pass:
                break
            yield Pause(wait)
        return Failure(CODE, sentence, transient=may_pass)

    def _told(self, url: str, message_id: str, body: bytes) -> Steps[tuple[str, bool]]:
        """What went wrong with one request, nothing if it went well, and whether it may pass."""
        try:
            target = check_url(url)
        except InvalidURL as error:
            return error.message, False
        request = Request(
            url=target.url,
            method="POST",
            fields=("Content-Type: application/json", *self._signed(message_id, body)),
            body=io.BytesIO(body),
            body_length=len(body),
            deadline=time.monotonic() + self._seconds,
        )
        heads: list[Head] = []
        try:
            yield Exchange(self._transfer, request, target.host, heads.append)
        except TransferError as error:
            # One that has answered was reached: nobody reads the body, nor needs all of it.
            if not heads:
                return _unreached(error)
        status = heads[0].status
        if 200 <= status <= 299:
            return "", False
        return f"The callback answered {status}.", status in _LATER or status >= 500

    def _signed(self, message_id: str, body: bytes) -> tuple[str, ...]:
        moment = str(int(time.time()))
        fields = f"webhook-id: {message_id}", f"webhook-timestamp: {moment}"
        if not self._key:
            return fields
        signed = f"{message_id}.{moment}.".encode() + body
        mac = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()
        return *fields, f"webhook-signature: v1,{mac}"


def _unreached(error: TransferError) -> tuple[str, bool]:
    if error.kind == "stopped":
        raise error
    if error.kind == "blocked":
        return f"The callback leads to an address that is not called: {error.detail}", False
    return f"The callback was not reached: {error.kind}.", True


def _called_json(ended: Snapshot) -> CalledJson:
    return {
        "type": "job.complete",
        "timestamp": utc_text(datetime.now(UTC)),
        "data": summary_json(ended),
    }


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].lower()
