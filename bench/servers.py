"""nginx on 127.0.0.1, twice: the origin of the images, and an Imgur that accepts every upload.

Each way of loading images has an Imgur of its own, with a port and a log of its own, so that its
uploads are counted on the wire. It is a bucket too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.machine import tool
from bench.process import BenchError, Child

AUTHORIZATION = "Client-ID bench"
BUCKET = "bucket"
_START_SECONDS = 10.0
_LOG_SECONDS = 5.0

# An upload's response as Imgur gives it since 2021.
UPLOADED = (
    '{"status":200,"success":true,"data":{"id":"abc1234","deletehash":"abcdefghijklmno",'
    '"account_id":null,"account_url":null,"ad_type":null,"ad_url":null,"title":null,'
    '"description":null,"name":"","type":"image/jpeg","width":256,"height":256,"size":50000,'
    '"views":0,"section":null,"vote":null,"bandwidth":0,"animated":false,"favorite":false,'
    '"in_gallery":false,"in_most_viral":false,"has_sound":false,"is_ad":false,"nsfw":null,'
    '"link":"https://i.imgur.com/abc1234.jpg","tags":[],"datetime":1700000000,"mp4":"","hls":""}}'
)
# The request of imgurpython's constructor.
CREDITS = (
    '{"data":{"UserLimit":10000000,"UserRemaining":10000000,"UserReset":1700003600,'
    '"ClientLimit":100000000,"ClientRemaining":100000000},"success":true,"status":200}'
)

_CONF = """
daemon off; pid {folder}/nginx.pid; user {user}; worker_processes {workers}; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
    types {{ image/jpeg jpg; }}
    keepalive_requests 1000000; keepalive_timeout 300;
    client_max_body_size 0; client_body_buffer_size {body_bytes};
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format uploads '$request_method $status $request_length $connection $http_authorization';
    server {{
        {listens}
        root {images}; open_file_cache max=10000;
    }}
    {imgurs}
}}
"""
# `return` alone responds before it has read the body. `mirror` reads it whole, into memory; then a
# static file refuses the POST, and error_page turns the refusal into the response.
_IMGUR_CONF = """
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        access_log {log} uploads; default_type application/json;
        location = /3/upload {{ root {folder}; mirror /nothing; error_page 405 =200 @answer; }}
        location = /nothing {{ internal; return 204; }}
        location /{bucket}/ {{
            root {folder}; mirror /nothing;
            error_page 405 =200 @put; error_page 404 =404 @missing;
        }}
        location @put {{ add_header ETag '"kept"' always; return 200; }}
        location @missing {{ return 404 '<Error><Code>NoSuchKey</Code></Error>'; }}
        location @answer {{ return 200 '{answer}'; }}
        location = /3/credits {{ access_log off; return 200 '{credits}'; }}
    }}
"""


class Servers:
    """A running origin with `hosts` addresses, and one Imgur for each of `ways`."""

    def __init__(self, folder: Path, ways: Sequence[str], hosts: int = 1) -> None:
        ports = _free_ports(1 + len(ways))
        self.ports = ports
        self.hosts = [f"127.0.1.{number + 1}" for number in range(hosts)]
        if hosts == 1:
            self.hosts = ["127.0.0.1"]
        self._imgur_ports = dict(zip(ways, ports[1:], strict=True))
        self._logs = {way: folder / f"imgur-{number}.log" for number, way in enumerate(ways)}

    def urls(self, names: Sequence[str]) -> list[str]:
        """The URLs of these images, whose hosts take turns."""
        hosts = itertools.cycle(self.hosts)
        return [f"http://{next(hosts)}:{self.ports[0]}/{name}" for name in names]

    def imgur(self, way: str) -> str:
        """The URL of the Imgur of `way`, in the place of https://api.imgur.com/."""
        return f"http://127.0.0.1:{self._imgur_ports[way]}/"

    def log(self, way: str) -> Path:
        """The file in which the Imgur of `way` writes a line for each request."""
        return self._logs[way]

    def uploads(self, way: str, expected: int, image_bytes: int) -> str:
        """The uploads that the Imgur of `way` saw, as a line; BenchError if any is missing.

        Counted are good POSTs with our Authorization, whose bytes are too, and good PUTs into the
        bucket: metadata may be stripped of these. nginx logs a request a moment after its response,
        so the log is read for some seconds.
        """
        deadline = time.monotonic() + _LOG_SECONDS
        while True:
            lines = [line.split(" ", 4) for line in self.log(way).read_text().splitlines()]
            posts = [line for line in lines if line[:2] == ["POST", "200"]]
            posts = [line for line in posts if line[4] == AUTHORIZATION]
            good = posts + [line for line in lines if line[:2] == ["PUT", "200"]]
            if len(good) >= expected or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        total = sum(int(line[2]) for line in good)
        seen = f"{len(good):,} uploads, {total:,} bytes"
        if len(good) != expected or total < len(posts) * image_bytes:
            raise BenchError(f"Imgur saw {seen} of {expected:,} images of {image_bytes:,}: {way}.")
        return f"Imgur saw {seen}, over {len({line[3] for line in good}):,} connections: {way}"


@contextlib.contextmanager
def running_servers(
    folder: Path, images: Path, ways: Sequence[str], image_bytes: int, hosts: int = 1
) -> Iterator[Servers]:
    """A running nginx until the end of the block; raises BenchError if it does not start."""
    servers = Servers(folder, ways, hosts)
    (folder / "3").mkdir()
    (folder / "3" / "upload").touch()
    imgurs = "".join(
        _IMGUR_CONF.format(
            port=port,
            log=servers.log(way),
            folder=folder,
            answer=UPLOADED,
            bucket=BUCKET,
            credits=CREDITS,
        )
        for way, port in zip(ways, servers.ports[1:], strict=True)
    )
    conf = _CONF.format(
        folder=folder,
        images=images,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        workers=min(2, os.cpu_count() or 1),
        # imgurpython's body is 1.42 times the file: base64, percent-encoded.
        body_bytes=2 * image_bytes + 64 * 2**10,
        listens="\n".join(
            f"listen {host}:{servers.ports[0]} backlog=1024;" for host in servers.hosts
        ),
        imgurs=imgurs,
    )
    (folder / "nginx.conf").write_text(conf)
    command = [tool("nginx"), "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
    with Child(command, folder / "nginx.log", folder) as child:
        wait_for_ports(servers.ports[1:], child)
        yield servers


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_for_ports(ports: Sequence[int], child: Child) -> None:
    """Return when `child` accepts connections on 127.0.0.1; raises BenchError if it does not."""
    deadline = time.monotonic() + _START_SECONDS
    for port in ports:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if child.status() is not None or time.monotonic() > deadline:
                raise BenchError(f"A server does not start: {child.output[-500:].strip()}")
            time.sleep(0.02)
