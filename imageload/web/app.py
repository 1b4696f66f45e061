"""The HTTP side of a service: its application, its server, and the observers that clients see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import tornado.netutil
import tornado.web

from imageload.sandbox_process import SandboxProcess
from imageload.service import Service
from imageload.settings import Settings
from imageload.tuning import Tuning
from imageload.web.access import Access, read_tokens
from imageload.web.base import BaseHandler, NotFoundHandler, waiting_of
from imageload.web.events import Events
from imageload.web.idempotency import IdempotencyKeys
from imageload.web.limits import RequestLimits
from imageload.web.scrape import Gauges, Scrape
from imageload.web.server.connections import BACKLOG, Server
from imageload.web.server.limits import most_connections, most_streams

# As Node's: headers of 64 kB in tiny fields would hold up the event loop for 60 ms.
_MAX_HEADERS_BYTES = 16 * 2**10

Routes = Sequence[tuple[str, type[BaseHandler]]]
"""Paths with `{parameters}`, and their handlers."""

# A jobId may have before it the colon that the first version's documents had.
_PARAMETERS = {"{job_id}": ":?([^/]+)", "{file}": "([a-z0-9_.-]+)"}


class App:
    """A Service and the Tornado application that answers for it by `routes`."""

    def __init__(
        self,
        settings: Settings,
        temp_dir: Path,
        routes: Routes,
        *,
        tuning: Tuning | None = None,
        on_break: Callable[[], object] | None = None,
        sandbox: SandboxProcess | None = None,
    ) -> None:
        """`on_break` is called, on another thread, when a bug ends one that the service needs."""
        self._settings, self._tuning = settings, tuning or Tuning()
        access = Access(settings, read_tokens(settings))  # before the service opens the journal
        self._most_connections = most_connections(settings)
        self.events = Events(
            most_streams(self._most_connections, self._tuning),
            lambda summary: waiting_of(self.service.registry, summary),
        )
        self.service = Service(
            settings,
            temp_dir,
            tuning=self._tuning,
            observers=(self.events,),
            on_break=on_break,
            sandbox=sandbox,
            watch=self.events,
        )
        for gate in self.service.target.gates.values():
            gate.watch(self.events.notify)
        self.limits = RequestLimits(
            access,
            IdempotencyKeys(self.service.store),
            self._tuning.max_bodies_bytes,
        )
        self.server: Server | None = None
        gauges = Gauges(
            self.service,
            self.events,
            self.limits,
            lambda: self.server.connections if self.server else 0,
        )
        self._scrape = Scrape(gauges)
        self.application = self._application(routes)
        self.service.start()

    def listen(self) -> tuple[Server, str]:
        """The server, listening on the running event loop, and its URL; OSError if it cannot."""
        settings = self._settings
        sockets = tornado.netutil.bind_sockets(
            settings.port, settings.address or None, backlog=BACKLOG
        )
        # Handlers limit the bodies, for they can answer; the server would close the connection.
        self.server = server = Server(
            self.application,
            most=self._most_connections,
            tuning=self._tuning,
            on_close=self._scrape.connection_closed,
            max_header_size=_MAX_HEADERS_BYTES,
            max_body_size=2**62,
        )
        server.add_sockets(sockets)
        self._following = asyncio.ensure_future(self.service.registry.run())
        host, port = sockets[0].getsockname()[:2]
        return server, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self, seconds: float, grace_seconds: float = 0.0) -> bool:
        """End the service as `Service.close` does; requests are answered meanwhile, POSTs refused.

        Blocks, so not for the event loop.
        """
        self.limits.close()
        return self.service.close(seconds, grace_seconds)

    def _application(self, routes: Routes) -> tornado.web.Application:
        arguments = {
            "service": self.service,
            "service_settings": self._settings,
            "tuning": self._tuning,
            "events": self.events,
            "scrape": self._scrape,
        }
        return tornado.web.Application(
            [(_pattern(path), handler, {**arguments, "route": path}) for path, handler in routes],
            default_handler_class=NotFoundHandler,
            default_handler_args=arguments,
            log_function=BaseHandler.log,
            limits=self.limits,
        )


def _pattern(path: str) -> str:
    for parameter, pattern in _PARAMETERS.items():
        path = path.replace(parameter, pattern)
    return path
