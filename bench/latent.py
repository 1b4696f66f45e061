"""An origin and Imgurs that respond late, in the place of nginx, for a few hundred images/s.

python -m bench.latent IMAGES ORIGIN_PORT ORIGIN_SECONDS SINK_SECONDS [PORT LOG]...

A Tornado server: each Imgur has a port and a log, with a line for each request as nginx's. It
responds `*_SECONDS` after it has read the whole request.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import tornado.web

from bench.process import Child
from bench.servers import CREDITS, UPLOADED, Servers, wait_for_ports
from bench.trees import ROOT

_BACKLOG = 1024
_ADDRESS = "127.0.0.1"


@contextlib.contextmanager
def running_latent_servers(
    folder: Path, images: Path, ways: Sequence[str], origin_seconds: float, sink_seconds: float
) -> Iterator[Servers]:
    """A running server until the end of the block; raises BenchError if it does not start."""
    servers = Servers(folder, ways)
    command: list[object] = [sys.executable, "-m", "bench.latent", images, servers.ports[0]]
    command += [origin_seconds, sink_seconds]
    for port, way in zip(servers.ports[1:], ways, strict=True):
        command += [port, servers.log(way)]
    with Child(command, folder / "latent.log", ROOT) as child:
        wait_for_ports(servers.ports, child)
        yield servers


class _Origin(tornado.web.RequestHandler):
    def initialize(self, images: Path, seconds: float) -> None:
        self._images, self._seconds = images, seconds

    async def get(self, name: str) -> None:
        await asyncio.sleep(self._seconds)
        self.set_header("Content-Type", "image/jpeg")
        self.write((self._images / name).read_bytes())


class _Imgur(tornado.web.RequestHandler):
    def initialize(self, log: TextIO, seconds: float) -> None:
        self._lines, self._seconds = log, seconds

    async def get(self, path: str) -> None:
        self._say(CREDITS if path == "3/credits" else "", 200 if path == "3/credits" else 404)

    head = get

    async def post(self, _path: str) -> None:
        await asyncio.sleep(self._seconds)
        self._say(UPLOADED, 200)

    async def put(self, _path: str) -> None:
        await asyncio.sleep(self._seconds)
        self.set_header("ETag", '"kept"')
        self._say("", 200)

    def _say(self, body: str, status: int) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.write(body)
        request = self.request
        authorization = request.headers.get("Authorization", "-")
        length, connection = len(request.body), id(request.connection)
        line = f"{request.method} {status} {length} {connection} {authorization}"
        print(line, file=self._lines, flush=True)


async def _serve(images: str, port: str, origin_late: str, sink_late: str, *sinks: str) -> None:
    origin = {"images": Path(images), "seconds": float(origin_late)}
    _listen(tornado.web.Application([("/(.+)", _Origin, origin)]), port)
    for sink_port, log in zip(sinks[::2], sinks[1::2], strict=True):
        sink = {"log": Path(log).open("w"), "seconds": float(sink_late)}  # noqa: SIM115
        _listen(tornado.web.Application([("/(.+)", _Imgur, sink)]), sink_port)
    await asyncio.Event().wait()


def _listen(application: tornado.web.Application, port: str) -> None:
    application.settings["log_function"] = lambda _handler: None
    application.listen(int(port), _ADDRESS, backlog=_BACKLOG)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
