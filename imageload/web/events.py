"""The event streams (server-sent events): one job's, and that of all jobs.

A stream is written block by block, the next one when the last one is with the system. So a
listener that reads slowly falls behind at no cost, one that reads nothing is dropped, and either
goes on later where it was: with the Last-Event-ID that its browser sends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import tornado.iostream

from imageload.job import Job
from imageload.web.base import BaseHandler
from imageload.web.feeds import JobFeed
from imageload.web.news import Bell

_log = logging.getLogger(__name__)

# When a browser that was cut off comes back.
_RETRY = b"retry: 2000\n\n"
_KEEPALIVE = b": keepalive\n\n"
_SHUTDOWN = b"event: shutdown\ndata: {}\n\n"

# The system's own buffer for a listener, which it would let grow to megabytes.
_SEND_BUFFER = 64 * 2**10

Next = Callable[[], tuple[bytes, bool]]
"""Gives what is to be sent next, empty for nothing now, and whether that is the last of it."""


class StreamHandler(BaseHandler):
    """A handler that answers with an event stream."""

    async def head(self, *path: str) -> None:
        """Answer the stream's headers."""
        if path:
            self.job(path[0])
        self._begin()
        await self.flush()

    async def stream(self, bell: Bell, greeting: bytes, following: Next) -> None:
        """Send `greeting` and what `following` gives, asked again when `bell` rings, to the end."""
        seconds = self.config.keepalive_seconds
        with self.changes.place():
            self._begin()
            is_open = await self._send(_RETRY + greeting)
            while is_open:
                chunk, is_last = following()
                if chunk:
                    is_open = await self._send(chunk) and not is_last
                elif self.changes.is_closing:
                    await self._send(_SHUTDOWN)
                    return
                elif not await self.rung(bell, seconds):
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
        """Give `chunk` to the system; False where the client is gone, or takes nothing."""
        if self.is_gone:
            return False
        self.write(chunk)
        try:
            async with asyncio.timeout(self.config.keepalive_seconds):
                await self.flush()
        except tornado.iostream.StreamClosedError:
            return False
        except TimeoutError:
            _log.info("dropped a listener that takes nothing path=%s", self.request.path)
            self.client_stream.close()
            return False
        return True


class JobEventsHandler(StreamHandler):
    """GET /v1/images/upload/<jobId>/events: the job as an event stream, until it is finished."""

    async def get(self, job_id: str) -> None:
        """Stream from the Last-Event-ID on; 204, no need to come back, where that was the end."""
        job = self.job(job_id)
        feed = self.changes.feed(job)
        event_id = self.request.headers.get("Last-Event-ID", "")
        if feed.has_told_all(job, event_id):
            self.set_status(204)
            return
        following = _following(job, feed, feed.place_of(event_id))
        await self.stream(feed.bell, feed.progress(job), following)


def _following(job: Job, feed: JobFeed, place: int) -> Next:
    """What a listener at `place` is sent: images that ended, and each turn how far the whole is."""
    turn = feed.turn

    def following() -> tuple[bytes, bool]:
        nonlocal place, turn
        chunk, place = feed.block(job, place)
        while not chunk and place < feed.news.last:  # a block in which all was overtaken
            chunk, place = feed.block(job, place)
        if place == feed.news.last and feed.is_complete(job):
            return chunk + feed.complete(job), True
        if feed.turn != turn:
            chunk, turn = chunk + feed.progress_of_turn(job), feed.turn
        return chunk, False

    return following


class EventsHandler(StreamHandler):
    """GET /v1/events: a `job` event whenever a job changes, at most two a second for each job."""

    async def get(self) -> None:
        """Stream from the Last-Event-ID on, or from now on without one."""
        load = self.image_load
        feed = self.changes.all_jobs(load.job_list_s, load.jobs())
        place = feed.place_of(self.request.headers.get("Last-Event-ID"))
        greeting = f"id: {feed.id_of(place)}\n\n".encode("ascii")

        def following() -> tuple[bytes, bool]:
            nonlocal place
            chunk, place = feed.block(place)
            return chunk, False

        await self.stream(feed.bell, greeting, following)
