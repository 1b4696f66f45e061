"""Responses that are made to cost the service time or memory, and the good job beside them.

`python -m tests.soak --hostile` runs fifty of them at once against the service as a process, with
a job of 200 good images before and beside them.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.process import peak_bytes
from sandbox.testing import running_sandbox
from tests.origin import Origin, Page, answer, raw, redirect, running_origin
from tests.service import ROOT, ServiceProcess

OK = b"HTTP/1.1 200 OK\r\n"
ZEROS = bytes(30_000_000)
EMPTY_BLOCKS = b"\0\0\0\xff\xff" * 13_000
HOSTS = 10
GOOD_IMAGES = 200


def _coded(coding: str, body: bytes) -> Page:
    return answer(body, Content_Encoding=coding)


def _endless(origin: Origin, head: bytes, again: bytes, every: float = 0.0) -> Page:
    """A page that sends `head`, then `again` until the other side closes."""

    def page(connection: socket.socket) -> None:
        connection.sendall(head)
        while not origin.released.wait(every):
            connection.sendall(again)

    return page


def hostile_pages(origin: Origin) -> dict[str, Page]:
    """The pages by path; each ends with an error of its image."""
    gzipped = gzip.compress(ZEROS)
    gzip_head = OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "/bomb-gzip": _coded("gzip", gzipped),
        "/bomb-deflate": _coded("deflate", zlib.compress(ZEROS)),
        "/bomb-br": _coded("br", b"\x5b\xff\xff\x01\x40\x02\x20\x19" * 1_000),
        "/bomb-zstd": _coded("zstd", b"\x28\xb5\x2f\xfd\xa4" + bytes(50_000)),
        "/bomb-twice": _coded("gzip, gzip", gzip.compress(gzipped)),
        "/bomb-three": _coded("gzip\r\nContent-Encoding: deflate, br", gzip.compress(gzipped)),
        "/bomb-redirect": redirect("/bomb-gzip"),
        "/blocks": _endless(origin, gzip_head, EMPTY_BLOCKS),
        "/drip-head": _endless(origin, OK, b"X", 0.1),
        "/drip-body": _endless(origin, OK + b"\r\n", b"x", 0.1),
        "/drip-chunks": _endless(origin, chunked, b"1\r\nx\r\n", 0.1),
        "/head-endless": _endless(origin, OK, b"X-More: of the same\r\n" * 100),
        "/head-long": _endless(origin, OK + b"X: ", b"y" * 65_536),
        "/head-thousands": raw(OK + b"X: y\r\n" * 9_000 + b"\r\n"),
        "/early-hints": _endless(origin, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
        "/body-endless": _endless(origin, OK + b"\r\n", bytes(65_536)),
        "/trailers": _endless(origin, chunked + b"1\r\nx\r\n0\r\n", b"X: " + b"t" * 999 + b"\r\n"),
        "/redirect-loop": redirect("/redirect-loop"),
        "/pixels": answer(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + b"\0\xff\xff\xff" * 2 + bytes(999)),
    }


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the good job, and the peak of the service's memory in bytes."""

    seconds: float
    peak: int


def measure(rounds: int = 3) -> bool:
    """Print the good job's cost alone and beside fifty hostile ones; True if that is bounded."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(_good_job(hostile=False))
        beside.append(_good_job(hostile=True))
    seconds = [statistics.median(cost.seconds for cost in costs) for costs in (alone, beside)]
    peaks = [statistics.median(cost.peak for cost in costs) for costs in (alone, beside)]
    print(f"alone  {seconds[0]:.2f} s, {peaks[0] / 1e6:.0f} MB")
    print(f"beside {seconds[1]:.2f} s, {peaks[1] / 1e6:.0f} MB")
    print(f"ratios {seconds[1] / seconds[0]:.2f} and {peaks[1] / peaks[0]:.2f}; at most 2 and 1.3")
    return seconds[1] <= 2 * seconds[0] and peaks[1] <= 1.3 * peaks[0]


def _good_job(*, hostile: bool) -> Cost:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running_sandbox(folder / "sandbox", unlimited=True))
        origin = stack.enter_context(running_origin())
        service = ServiceProcess(
            "--port=0",
            f"--temp-dir={folder}",
            "--imgur-client-id=x",
            f"--imgur-base-url={sandbox.url}",
            f"--imgur-link-base={sandbox.url}",
            "--allow-origin=127.0.0.0/8",
            "--download-seconds=15",
            "--max-tries=1",
        )
        stack.callback(service.stop)
        job_id = None
        if hostile:
            urls = stack.enter_context(_hostile_urls())
            job_id = service.submit(urls, dedupe=False)
            time.sleep(0.5)  # so that they are at work
        begun = time.monotonic()
        good = [f"{origin.image('jpeg-baseline.jpg')}?{n}" for n in range(GOOD_IMAGES)]
        status = service.finish(service.submit(good, dedupe=False), 300)
        seconds = time.monotonic() - begun
        assert len(status["uploaded"]["completed"]) == GOOD_IMAGES
        if job_id is not None:
            service.finish(job_id, 300)
            failed = service.records(job_id).values()
            assert all(image["error"]["code"] != "internal_error" for image in failed)
        assert not [line for line in service.log if "Traceback" in line]
        return Cost(seconds, peak_bytes(service.process.pid))


@contextlib.contextmanager
def _hostile_urls() -> Iterator[list[str]]:
    """Fifty URLs of ten hosts, which are served by another process."""
    command = [sys.executable, "-m", "tests.hostile"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        bases = [process.stdout.readline().strip() for _ in range(HOSTS)]
        paths = list(hostile_pages(Origin()))
        try:
            yield [f"{bases[n % HOSTS]}{paths[n % len(paths)]}?{n}" for n in range(50)]
        finally:
            process.kill()


def _serve() -> None:
    for number in range(HOSTS):
        origin = Origin(address=f"127.0.1.{number + 1}")
        origin.pages = hostile_pages(origin)
        print(origin.url, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    _serve()
