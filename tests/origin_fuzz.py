"""Random responses of origins through the real Downloader.

Each ends as an image or as an ImageError with a code that is not `internal_error`; nothing is
logged as a bug, and no temp file is left. `python -m tests.soak --origins=5000` is the long form.
"""

from __future__ import annotations

import gzip
import logging
import random
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from imageload.errors import ImageError, image_error_codes
from tests.downloads import Download
from tests.folders import filled
from tests.origin import IMAGES, Origin, raw, running_origin

PNG = (IMAGES / "png-rgb.png").read_bytes()
BODIES = [PNG, (IMAGES / "gif-89a.gif").read_bytes(), b"", b"<html>", bytes(300)]
CODINGS = ["gzip", "deflate", "br", "x-gzip", "UTF-8", "identity", "gzip, gzip", "\xff", ", ,"]
STATUSES = [200, 200, 200, 201, 204, 206, 301, 302, 303, 307, 308, 304, 404, 503, 999, 100, 0]
WORDS = [
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length:\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Range: bytes 0-9/99\r\n",
    b"Retry-After: soon\r\n",
    b"no colon\r\n",
    b": no name\r\n",
    b" folded\r\n",
    b"\0\r\n",
    b"Connection: keep-alive\r\n",
    b"Set-Cookie: a=b\r\n",
]
LOCATIONS = [
    b"/a",
    b"//",
    b"http://",
    b"https://127.0.0.1:1/",
    b"http://[",
    b"\\\\",
    b"?",
    b"#",
    b"",
]


def _bytes(rng: random.Random, most: int) -> bytes:
    return rng.randbytes(rng.randrange(most + 1))


def _flipped(rng: random.Random, content: bytes, most: int = 5) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(most + 1) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.3 else changed)


def _whole(rng: random.Random) -> bytes:
    body = rng.choice(BODIES)
    headers = b"".join(rng.sample(WORDS, rng.randrange(4)))
    return b"HTTP/1.1 %d X\r\n%s\r\n" % (rng.choice(STATUSES), headers) + body


def _broken_head(rng: random.Random) -> bytes:
    return _flipped(rng, _whole(rng), 12)


def _chunked(rng: random.Random) -> bytes:
    sizes = [b"%x" % rng.randrange(400), b"0", b"zz", b"-1", b"ffffffffffffffffff", b"", b" 5 "]
    chunks = b"".join(
        rng.choice(sizes) + rng.choice([b"\r\n", b"\n", b";x=y\r\n"]) + _bytes(rng, 400) + b"\r\n"
        for _ in range(rng.randrange(6))
    )
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


def _coded(rng: random.Random) -> bytes:
    body = rng.choice(BODIES)
    body = gzip.compress(body) if rng.random() < 0.5 else zlib.compress(body)
    coding = rng.choice(CODINGS).encode("latin-1")
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: " + coding + b"\r\n\r\n" + _flipped(rng, body)


def _redirect(rng: random.Random) -> bytes:
    location = rng.choice(LOCATIONS) + _bytes(rng, 40).replace(b"\r", b"").replace(b"\n", b"")
    return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"


KINDS: list[Callable[[random.Random], bytes]] = [
    lambda rng: _bytes(rng, 2_000),
    _whole,
    _broken_head,
    _chunked,
    _coded,
    _redirect,
]


@dataclass(slots=True)
class Findings:
    """How often each end came, and the cases that ended wrong, with their bytes."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class _Bugs(logging.Handler):
    """Collects tracebacks and errors of the log."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__()
        self._wrong = wrong

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self._wrong.append(f"logged: {record.getMessage()} {record.exc_info}")


def fuzz(folder: Path, cases: int, seed: int) -> Findings:
    """Download `cases` random responses, which follow from `seed`."""
    found = Findings()
    bugs = _Bugs(found.wrong)
    logging.getLogger().addHandler(bugs)
    download = Download(folder, seconds=5)
    try:
        with running_origin() as origin, ThreadPoolExecutor(8) as threads:

            def run(number: int) -> tuple[str, str | None]:
                return _play(download, origin, random.Random(seed * 1_000_003 + number), number)

            for end, wrong in threads.map(run, range(cases)):
                found.ends[end] += 1
                found.wrong += [wrong] if wrong else []
    finally:
        download.close()
        logging.getLogger().removeHandler(bugs)
    found.wrong += [f"left behind: {path}" for path in filled(folder)]
    return found


def _play(
    download: Download, origin: Origin, rng: random.Random, number: int
) -> tuple[str, str | None]:
    """How the case ended, and what was wrong with that."""
    sent = rng.choice(KINDS)(rng)
    try:
        report = download.call(origin.page(f"/{number}", raw(sent)))
    except ImageError as error:
        is_known = error.code in image_error_codes() - {"internal_error"}
        return error.code, None if is_known else f"{error!r} of {sent!r}"
    except Exception as error:
        return "bug", f"{error!r} of {sent!r}"
    download.give_back(report)
    return "image", None
