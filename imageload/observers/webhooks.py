"""Jobs that tell somebody when they have ended: a reader of Changes that POSTs to their callbacks.

    Road ──Change──► Callbacks ──► a lane of the engine ──► the callback's host, under the guard
                         ▲              │        └─► CallbackEnded ──► Job
                         └── a wait ◄───┘ it may pass     told, or given up

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from imageload.errors import Failure, InvalidURL
from imageload.fetch.guard import check_url
from imageload.job import CallbackEnded, Change, Job, Snapshot
from imageload.schemas import CalledJson, summary_json, utc_text
from imageload.settings import signing_key
from imageload.transport.engine import Done, Engine, Lane
from imageload.transport.transfer import (
    Exchange,
    Head,
    Pause,
    Request,
    Steps,
    Transfer,
    TransferError,
)

_log = logging.getLogger(__name__)

CODE = "callback_failed"
_LATER = frozenset({408, 425, 429})
_SLOTS = 16
# What waits to be told again has no slot there, or five hosts that are down would keep all others
# from being told. Here it costs nothing.
_WAITING = 10_000

Apply = Callable[[Job, Change], object]


@dataclass(frozen=True, slots=True)
class _Message:
    """That `job` has ended, at `version`, as its callback at `url` is told it."""

    job: Job
    version: int
    url: str
    id: str
    body: bytes


class Callbacks:
    """A reader for a Road's `readers`; may be called from any thread.

    It makes lanes of its own, so before the engine's `start`. After a failure that may pass it is
    told again, after each of `waits` in turn. With a `secret` what is sent is signed. `apply` makes
    a Change true of a job.
    """

    def __init__(
        self,
        engine: Engine,
        transfer: Transfer,
        apply: Apply,
        *,
        seconds: float,
        waits: Sequence[float],
        secret: str = "",
    ) -> None:
        self._lane = engine.lane(transfer, _SLOTS)
        self._waiting = engine.lane(transfer, _WAITING)
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
        # Versions begin anew with each process, and who is told may drop an id that it has seen.
        message_id = f"{job.job_id}.{secrets.token_hex(4)}"
        body = msgspec.json.encode(_called_json(state))
        message = _Message(job, state.version, state.callback.url, message_id, body)
        self._send(message, iter(self._waits))

    def _send(self, message: _Message, waits: Iterator[float]) -> None:
        """Send it, and after a failure that may pass again, when the next of `waits` is over."""

        def answered(end: object) -> None:
            may_pass = isinstance(end, Failure) and end.transient
            wait = next(waits, None) if may_pass else None
            if wait is None:
                self._ended(message, end)
            else:
                steps = functools.partial(_pause, wait)
                self._do(self._waiting, message.job.job_id, steps, waited)

        def waited(end: object) -> None:
            if end is None:
                self._send(message, waits)
            else:
                self._ended(message, end)

        steps = functools.partial(self._told, message)
        self._do(self._lane, urlsplit(message.url).netloc.lower(), steps, answered)

    def _do(self, lane: Lane, key: str, steps: Callable[[], Steps[Any]], done: Done) -> None:
        try:
            lane.submit(key, steps, done)
        except RuntimeError:
            done(TransferError("stopped", "nothing is taken any more"))

    def _ended(self, message: _Message, end: object) -> None:
        """The end of a job is told, or given up."""
        job = message.job
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
        self._apply(job, CallbackEnded(message.version, failure))
        with self._door:
            self._under_way.discard(job.job_id)
        self.look(job)  # it may have come to another end meanwhile

    def _told(self, message: _Message) -> Steps[Failure | None]:
        """Send it once: None where it was heard, or why not."""
        try:
            target = check_url(message.url)
        except InvalidURL as error:
            return Failure(CODE, error.message, transient=False)
        request = Request(
            url=target.url,
            method="POST",
            fields=("Content-Type: application/json", *self._signed(message)),
            body=io.BytesIO(message.body),
            body_length=len(message.body),
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
            return None
        may_pass = status in _LATER or status >= 500
        return Failure(CODE, f"The callback answered {status}.", transient=may_pass)

    def _signed(self, message: _Message) -> tuple[str, ...]:
        moment = str(int(time.time()))
        fields = f"webhook-id: {message.id}", f"webhook-timestamp: {moment}"
        if not self._key:
            return fields
        signed = f"{message.id}.{moment}.".encode() + message.body
        mac = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()
        return *fields, f"webhook-signature: v1,{mac}"


def _pause(seconds: float) -> Steps[None]:
    yield Pause(seconds)


def _unreached(error: TransferError) -> Failure:
    if error.kind == "stopped":
        raise error
    if error.kind == "blocked":
        sentence = f"The callback leads to an address that is not called: {error.detail}"
        return Failure(CODE, sentence, transient=False)
    return Failure(CODE, f"The callback was not reached: {error.kind}.", transient=True)


def _called_json(ended: Snapshot) -> CalledJson:
    return {
        "type": "job.complete",
        "timestamp": utc_text(datetime.now(UTC)),
        "data": summary_json(ended),
    }
