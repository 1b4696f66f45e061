"""The handlers of the event streams (server-sent events): of one job, and of all jobs.

A stream is written block by block, the next one when the kernel has taken the last one. A client
that reads slowly is sent less often; one that reads nothing is disconnected. Both can resume with
the Last-Event-ID, which browsers send by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import tornado.iostream

from imageload.web.base import BaseHandler
from imageload.web.topics import Topic

_log = logging.getLogger(__name__)

# A browser reconnects after so many milliseconds.
_RETRY = b"retry: 2000\n\n"
_KEEPALIVE = b": keepalive\n\n"
_SHUTDOWN = b"event: shutdown\ndata: {}\n\n"

# The kernel's send buffer for a client, which would otherwise grow to megabytes.
_SEND_BUFFER = 64 * 2**10


class StreamHandler(BaseHandler):
    """A handler whose response is an event stream."""

    async def head(self, *path: str) -> None:
        """The headers of the stream."""
        if path:
            await self.job(path[0])
        self._begin()
        await self.flush()

    async def stream(self, topic: Topic[Any], position: int, greeting: bytes) -> None:
        """Send `greeting`, then the topic's events after `position` until it ends."""
        seconds = self.tuning.keepalive_seconds
        with self.events.subscribe(topic, self.changed):
            self._begin()
            is_open = await self._send(_RETRY + greeting)
            while is_open:
                is_notified = self.changed.is_set()
                self.changed.clear()
                chunk, position, is_last = topic.next(position, is_notified=is_notified)
                if chunk:
                    is_open = await self._send(chunk) and not is_last
                elif self.events.is_closing:
                    await self._send(_SHUTDOWN)
                    return
                elif not await self.wait_for_change(seconds):
                    is_open = await self._send(_KEEPALIVE)

    def _begin(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        stream = self.client_stream
        if stream.closed():
            return
        stream.set_nodelay(True)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    async def _send(self, chunk: bytes) -> bool:
        """Write `chunk`; False if the client is gone, or has read nothing for too long."""
        if self.is_gone:
            return False
        self.write(chunk)
        try:
            async with asyncio.timeout(self.tuning.keepalive_seconds):
                await self.flush()
        except tornado.iostream.StreamClosedError:
            return False
        except TimeoutError:
            _log.info("disconnected a client that reads nothing path=%s", self.request.path)
            self.client_stream.close()
            return False
        return True


class JobEventsHandler(StreamHandler):
    """GET /v1/images/upload/<jobId>/events: the job as an event stream, until it is finished."""

    async def get(self, job_id: str) -> None:
        """Stream from the Last-Event-ID on; 204 if that was the job's last event."""
        job = await self.job(job_id)
        topic = self.events.of_job(job)
        event_id = self.request.headers.get("Last-Event-ID", "")
        if topic.is_end(event_id):
            self.set_status(204)
            return
        await self.stream(topic, topic.position(event_id), topic.progress())


class EventsHandler(StreamHandler):
    """GET /v1/events: a `job` event whenever a job changes, at most two a second for each job."""

    async def get(self) -> None:
        """Stream from the Last-Event-ID on, or from now on without one."""
        await self.jobs.look()
        topic = self.events.of_all_jobs(self.jobs.listed)
        event_id = self.request.headers.get("Last-Event-ID")
        position = topic.version if event_id is None else topic.position(event_id)
        await self.stream(topic, position, f"id: {position}\n\n".encode("ascii"))
