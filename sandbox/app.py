"""The route tables and the server."""

from __future__ import annotations

import logging
import socket
import ssl
from ipaddress import ip_address
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.routing import HostMatches
from tornado.web import Application, RequestHandler

from . import albums, api, control, host, oauth, pages
from .options import Options
from .state import State

log = logging.getLogger(__name__)

ENDLESS = 1 << 40  # Handler limits the body: Tornado's own limit answers 400 without a message
MAX_HEADER_BYTES = 64 * 1024
_DOT = r"(?:\.json|\.xml)?"
_ID = r"([0-9A-Za-z]{1,20})"

API_ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (rf"/3/(?:image|upload){_DOT}/?", api.Upload),
    (rf"/3/image/{_ID}{_DOT}", api.Image),
    (rf"/3/image/{_ID}/favorite{_DOT}", api.Favorite),
    (rf"/3/credits{_DOT}", api.Credits),
    (rf"/3/album{_DOT}/?", albums.Albums),
    (rf"/3/album/{_ID}{_DOT}", albums.OneAlbum),
    (rf"/3/album/{_ID}/images{_DOT}", albums.AlbumImages),
    (rf"/3/album/{_ID}/add{_DOT}", albums.AlbumAdd),
    (rf"/3/album/{_ID}/remove_images{_DOT}", albums.AlbumRemove),
    (rf"/3/account/me/images(?:/(\d{{1,6}}))?{_DOT}", api.AccountImages),
    (r"/oauth2/token", oauth.Token),
]
API_REST: list[tuple[str, type[RequestHandler]]] = [(r"/3(?:/.*)?", api.Unknown)]
HOST_ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"/", host.Face),
    (r"/removed\.png", host.Removed),
    (r"/([0-9A-Za-z]{7})\.gifv", pages.ImagePage),  # a page with a player on Imgur, no image
    (r"/([0-9A-Za-z]{7})([sbtmlh])?\.[0-9A-Za-z]{1,5}", host.Link),
    (r"/([0-9A-Za-z]{7})", pages.ImagePage),
    (rf"/a/{_ID}", pages.AlbumPage),
]
CONTROL_ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"/sandbox/faults", control.FaultControl),
    (r"/sandbox/settings", control.SettingControl),
    (r"/sandbox/tokens", control.TokenControl),
    (r"/sandbox/stats", control.StatControl),
    (r"/sandbox/images", control.ImageControl),
]
REST: list[tuple[str, type[RequestHandler]]] = [(r".*", host.NotHere)]


def application(state: State) -> Application:
    """The Tornado application: the API, the image host, or both and the control, by Host header.

    Imgur's two names have their own routes, so that a hosts file can direct an unmodified client to
    the sandbox.
    """
    given = {"state": state}

    def routes(*tables: list[tuple[str, type[RequestHandler]]]) -> list[Any]:
        return [(path, handler, given) for table in tables for path, handler in table]

    return Application(
        [
            (HostMatches(r"api\.imgur\.com"), routes(API_ROUTES, [(r".*", api.Unknown)])),
            (HostMatches(r"i\.imgur\.com"), routes(HOST_ROUTES, REST)),
            (r".*", routes(API_ROUTES, API_REST, HOST_ROUTES, CONTROL_ROUTES, REST)),
        ],
        log_function=_log_request,
    )


class Sandbox:
    """One sandbox on one port. Start and stop it on an event loop."""

    def __init__(self, options: Options) -> None:
        self.state = State(options)
        self._server: HTTPServer | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen and set `url`. Raises OSError if the port is not available."""
        options = self.state.options
        sockets = bind_sockets(options.port, options.address, backlog=512)
        context = _tls(options) if options.cert else None
        self._server = HTTPServer(
            application(self.state),
            ssl_options=context,
            max_body_size=ENDLESS,
            max_header_size=MAX_HEADER_BYTES,
            body_timeout=options.body_seconds,
            idle_connection_timeout=options.idle_seconds,
        )
        self._server.add_sockets(sockets)
        self.url = _url(sockets[0], tls=context is not None)
        self.state.link_base = self.state.link_base or self.url

    async def stop(self) -> None:
        """Close every connection, also during a request, and end the threads."""
        self.state.closing.set()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        self.state.close()


def _tls(options: Options) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.cert, options.key)
    return context


def _url(listening: socket.socket, *, tls: bool) -> str:
    """The URL of the socket for a client on this machine."""
    address, port = listening.getsockname()[:2]
    if ip_address(address).is_unspecified:
        address = "127.0.0.1" if ":" not in address else "::1"
    shown = f"[{address}]" if ":" in address else address
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def _log_request(handler: RequestHandler) -> None:
    """Log a request without its query, which may hold a title."""
    request = handler.request
    log.debug(
        "%s %s %d in %.1f ms",
        request.method,
        request.path,
        handler.get_status(),
        1000 * request.request_time(),
    )
