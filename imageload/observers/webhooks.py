"""Webhooks: an observer that POSTs a job's end to the callback that the client gave.

    a job ends ─► POST, signed ─► 2xx: CallbackEnded
                    ▲   └─ no response, 408, 425, 429, 5xx ─► wait ─┐
                    └───────────────────────────────────────────────┘ or CallbackEnded, failed

Messages and signatures follow Standard Webhooks 1.0 (https://www.standardwebhooks.com). Delivery is
at least once; receivers deduplicate by jobId. Redirects are not followed. Requests go through the
guard. Runs on the transfer loop.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import msgspec

from imageload.errors import Failure, InvalidURL
from imageload.fetch.guard import Target, check_url
from imageload.job import CallbackEnded, Change, Job, Snapshot
from imageload.job_json import entries_json, summary_json
from imageload.schemas import CalledJson, EndedJson, utc_text
from imageload.transport.curl import Transport
from imageload.transport.request import Request, Response, TransferError
from imageload.transport.slots import Slots

_log = logging.getLogger(__name__)

CODE = "callback_failed"
_MOST_ENTRIES = 1_000
_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_SLOTS = 128
"""Shared by the receivers' hosts: one that hangs gets at most half of them."""

Apply = Callable[[Job, Change], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRules:
    """`seconds` for one request, `waits` between the tries in seconds, the signing `secret`."""

    seconds: float = 10.0
    waits: Sequence[float] = (1.0, 10.0, 60.0)
    secret: str = ""


@dataclass(frozen=True, slots=True)
class _Message:
    """The end that `job` came to at `version`, for its callback at `url`."""

    job: Job
    version: int
    url: str
    id: str
    body: bytes


class Webhooks:
    """Notifies callbacks. `apply` makes a Change true of a job."""

    def __init__(self, transport: Transport, rules: WebhookRules, apply: Apply) -> None:
        self._transport = transport
        self._rules = rules
        self._apply = apply
        self._key = signing_key(rules.secret)
        self._slots = Slots(_SLOTS)
        self._notifying: dict[str, asyncio.Task[None]] = {}
        self._is_stopped = False

    def __call__(self, job: Job, change: Change) -> None:  # noqa: ARG002  # an observer gets both
        """Notify the callback of `job` if this Change has ended it."""
        if job.callback is not None:
            self.notify_if_ended(job)

    def restore(self, jobs: Iterable[Job]) -> None:
        """Notify the callbacks that an earlier process did not."""
        for job in jobs:
            self.notify_if_ended(job)

    def stop(self) -> None:
        """Ignore jobs that end from now on: the stop of the service ends them."""
        self._is_stopped = True

    def notify_if_ended(self, job: Job) -> None:
        """Notify the callback of `job` if the job has ended and the callback does not know."""
        state = job.summary()
        if state.callback is None or not state.callback.is_open or not state.finished:
            return
        if self._is_stopped or job.job_id in self._notifying:
            return
        # A job may end again after a retry: a receiver drops an id that it has seen.
        message_id = f"{job.job_id}.{secrets.token_hex(4)}"
        body = msgspec.json.encode(_called_json(job.snapshot()))
        message = _Message(job, state.version, state.callback.url, message_id, body)
        task = asyncio.get_running_loop().create_task(self._notify(message))
        self._notifying[job.job_id] = task

    async def tell(self, job: Job) -> None:
        """Notify the callback of `job` if that is still to be done; returns when it has ended.

        For a job that ended elsewhere. At a stop, the callback stays open.
        """
        self.notify_if_ended(job)
        while (task := self._notifying.get(job.job_id)) is not None:
            await asyncio.wait([task])

    async def _notify(self, message: _Message) -> None:
        job = message.job
        try:
            failure = await self._send_with_retries(message)
        except Exception:
            _log.exception("a callback met a bug job=%s", job.job_id)
            failure = Failure(CODE, "A bug in the service kept this from being sent.", False)
        finally:
            del self._notifying[job.job_id]
        if failure is not None:
            _log.warning("callback failed job=%s reason=%s", job.job_id, failure.message)
        else:
            _log.info("called back job=%s", job.job_id)
        self._apply(job, CallbackEnded(message.version, failure))
        self.notify_if_ended(job)  # it may have come to another end meanwhile

    async def _send_with_retries(self, message: _Message) -> Failure | None:
        try:
            target = check_url(message.url)
        except InvalidURL as error:
            return Failure(CODE, error.message, transient=False)
        for wait in (*self._rules.waits, None):
            failure = await self._slots.run(target.host, lambda: self._send(message, target))
            if failure is None or not failure.transient or wait is None:
                return failure
            await asyncio.sleep(wait)
        raise AssertionError("the last wait is None")

    async def _send(self, message: _Message, target: Target) -> Failure | None:
        """Send it once; returns None if it was received, else the reason."""
        request = Request(
            url=target.url,
            host=target.host,
            method="POST",
            headers=("Content-Type: application/json", *self._signed(message)),
            body=io.BytesIO(message.body),
            body_length=len(message.body),
            deadline=time.monotonic() + self._rules.seconds,
        )
        responses: list[Response] = []
        try:
            await self._transport.perform(request, responses.append)
        except TransferError as error:
            if not responses:  # the response's headers say enough, whatever became of its body
                return _not_reached(error)
        status = responses[0].status
        if 200 <= status <= 299:
            return None
        is_transient = status in _TRANSIENT_STATUSES or status >= 500
        return Failure(CODE, f"The callback answered {status}.", transient=is_transient)

    def _signed(self, message: _Message) -> tuple[str, ...]:
        moment = str(int(time.time()))
        headers = f"webhook-id: {message.id}", f"webhook-timestamp: {moment}"
        if not self._key:
            return headers
        signed = f"{message.id}.{moment}.".encode() + message.body
        mac = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()
        return *headers, f"webhook-signature: v1,{mac}"


def signing_key(secret: str) -> bytes:
    """The key of a `--callback-secret`: the base64 after `whsec_`, else the text itself.

    Raises ValueError if that is not base64, or empty.
    """
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:  # an empty key would sign nothing, without notice
        raise ValueError("--callback-secret: no base64 follows whsec_")
    return key


def _not_reached(error: TransferError) -> Failure:
    if error.kind == "blocked":
        message = f"The callback leads to an address that is not called: {error.detail}"
        return Failure(CODE, message, transient=False)
    return Failure(CODE, f"The callback was not reached: {error.kind}.", transient=True)


def _called_json(ended: Snapshot) -> CalledJson:
    """The message; a receiver gets entries past the first 1,000 from the map."""
    entries = list(islice(entries_json(ended), _MOST_ENTRIES))
    summary = summary_json(ended)
    state: EndedJson = {**summary, "entries": entries} if entries else {**summary}  # type: ignore[typeddict-item]
    return {"type": "job.complete", "timestamp": utc_text(datetime.now(UTC)), "data": state}
