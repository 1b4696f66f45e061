"""Images that Imgur does not take, made into ones that it does; and images made to fit its limit.

    a thread ── Converter.convert ── one request, as JSON, down a pipe ──> worker process
       │        header: pixel cap                                         Pillow, libheif: decode,
       └── Converted, or an error <── one answer, or the pipe's end ──────  turn, encode, write

Codecs run in processes of their own, never in the service's: at nice 10, in bounded memory, killed
at a deadline and replaced after a crash, which ends one image. A worker ends when its parent does.

What becomes what:
- Without transparency: JPEG, quality 92, 4:4:4. PNG where the source is lossless (BMP, WebP's VP8L;
  AVIF does not tell, so it counts as lossy) or any pixel is not opaque.
- Animated WebP and AVIF sequences: GIF, with each frame's time, the number of loops and a palette
  for each frame. Imgur also takes APNG, but by its help text a PNG over 5 MB becomes a JPEG, and
  those of lossy animations mostly are larger; a GIF over 2 MB becomes a video there, and moves. The
  price is 256 colours a frame, and pixels that are either opaque or not there.
- Turned as its EXIF, irot or imir says. Of the metadata only the ICC profile is kept: no EXIF, so
  no place, no XMP, no comment. What is not converted is uploaded byte for byte.
- HDR and more than 8 bits a channel are cut to 8, without tone mapping; a colour space that only a
  CICP code names is taken for sRGB.

In CPU time of one 2.8 GHz core, with a warm worker, a megapixel takes 55 ms as lossy WebP, 83 as
AVIF, 108 as HEIC, 130 as BMP, 170 with transparency and 75 to 260 in an animation (so that the
deadline may come before the pixel cap); an image of 128 by 128 takes 2 ms in all. A worker is there
in 0.15 s, holds 25 MB when idle and up to 18 bytes a pixel when busy: 0.9 GB at 50 megapixels.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imageload import errors
from imageload.fetch import sniff as image
from imageload.fetch.tempfiles import disk_error

if TYPE_CHECKING:
    pass

_log = logging.getLogger(__name__)

NEEDS: Final = frozenset({"image/webp", "image/avif", "image/heic", "image/bmp"})
"""The types, as image.sniff names them, that Imgur does not take."""

FRAMES_FACTOR: Final = 4
"""An animation's frames may have this many times the pixels that a still may have, in all."""

_START_SECONDS: Final = 30  # for a worker to be ready; 0.2 here
_IMAGES_A_WORKER: Final = 500  # then a new one: what a codec leaks stays small
_MEMORY: Final = 512 * 2**20  # of address space: Python, the codecs' libraries, small images
_MEMORY_A_PIXEL: Final = 32  # of address space
_MAX_MESSAGE: Final = 64 * 1024
_ENVIRONMENT: Final = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "LC_ALL",
)


@dataclass(frozen=True, slots=True)
class Converted:
    """A new image file, the caller's to delete: where and what it is."""

    path: Path
    type: str
    width: int
    height: int
    bytes: int
    sha256: str


class Converter:
    """Converts images in up to `workers` processes, which start when there is work.

    Safe in any number of threads; each waits for its own image, and for a worker to be free. One
    conversion takes at most `seconds`, and an image may have `max_pixels`.
    """

    def __init__(
        self, *, workers: int = 2, seconds: float = 30, max_pixels: int = 50_000_000
    ) -> None:
        self.workers = workers
        self._seconds = seconds
        self._max_pixels = max_pixels
        self._changed = threading.Condition()
        self._taken = 0
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def convert(self, path: Path, kind: str, *, max_bytes: int | None = None) -> Converted:
        """The image of type `kind` in `path` as one that Imgur takes, in a new file beside it.

        Raises DownloadError (`too_many_pixels`, `conversion_failed`), DiskFull, `disk_error`,
        ResourceError if no worker can be started, Shutdown after close, and TooLarge if the result
        has more than `max_bytes`.
        After an error there is no new file.
        """
        return self._recode("convert", path, kind, max_bytes)

    def shrink(self, path: Path, kind: str, max_bytes: int) -> Converted:
        """The image of type `kind` in `path`, of any type we know, in at most `max_bytes`.

        Tries PNG where the source is lossless, then JPEG at 90, 85 and 75 if all is opaque, then a
        smaller picture; an animation becomes a GIF of 128 colours a frame, then a smaller one.
        Raises what convert does, and TooLarge where nothing of 16 pixels a side would fit.
        """
        return self._recode("shrink", path, kind, max_bytes)

    def close(self) -> None:
        """End every worker. What is being converted, or waits for it, raises Shutdown."""
        with self._changed:
            self._closed = True
            for worker in self._busy:
                worker.kill()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._taken)
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _recode(self, verb: str, path: Path, kind: str, max_bytes: int | None) -> Converted:
        try:
            header = image.read_header(path)
        except OSError as error:
            raise disk_error(error) from None
        if header and header.width and header.height:
            check_pixels(header.width * header.height, self._max_pixels)
        with _NewFile(path.absolute().parent) as file:
            answer = self._ask(
                verb=verb,
                path=str(path.absolute()),
                kind=kind,
                new_path=str(file.path),
                max_bytes=max_bytes,
                max_pixels=self._max_pixels,
            )
            converted = Converted(path=file.path, **answer)
            file.keep()
        return converted

    def _ask(self, **request: Any) -> dict[str, Any]:
        """A worker's answer; raises the error that it tells of, or that its end is."""
        worker = self._take()
        try:
            answer = worker.ask(request, self._seconds)
        except _WorkerLost as lost:
            if self._closed:
                raise errors.Shutdown("The service stopped during the conversion.") from None
            _log.warning("a worker was lost pid=%d kind=%s: %s", worker.pid, request["kind"], lost)
            raise errors.DownloadError("conversion_failed", lost.sentence) from None
        finally:
            self._give_back(worker)
        if "error" in answer:
            if answer["error"] == "internal_error":
                _log.error("a bug in a conversion kind=%s\n%s", request["kind"], answer["detail"])
                raise errors.ImageError(
                    "internal_error", "A bug in the service kept this image from going on."
                )
            raise _error_of(answer["error"], answer["detail"])
        return answer

    def _take(self) -> _Worker:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._taken < self.workers)
            self._check_open()
            self._taken += 1
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    self._busy.add(worker)
                    return worker
                worker.end()
        try:
            worker = _Worker(_MEMORY + _MEMORY_A_PIXEL * self._max_pixels)
        except BaseException:
            self._leave()
            raise
        with self._changed:
            self._busy.add(worker)
            closed = self._closed
        if not closed:
            try:
                worker.begin()
            except _WorkerLost as lost:
                _log.error("no worker can be started: %s", lost)
            else:
                return worker
        self._give_back(worker)
        self._check_open()
        raise errors.ResourceError("The service can start no process to convert images with.")

    def _check_open(self) -> None:
        if self._closed:
            raise errors.Shutdown("The service stopped before this image was converted.")

    def _give_back(self, worker: _Worker) -> None:
        with self._changed:
            stays = worker.fit and not self._closed
        if not stays:
            worker.end()
        with self._changed:
            self._busy.remove(worker)
            if stays:
                self._idle.append(worker)
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()


_CLASSES: Final[Mapping[str, type[errors.TooLarge | errors.DiskFull | errors.ResourceError]]] = {
    "too_large": errors.TooLarge,
    "disk_full": errors.DiskFull,
    "resource_error": errors.ResourceError,
}


def _error_of(code: str, message: str) -> errors.ImageError:
    kind = _CLASSES.get(code)
    return errors.DownloadError(code, message) if kind is None else kind(message)


def check_pixels(pixels: int, most: int) -> None:
    if pixels > most:
        raise errors.DownloadError(
            "too_many_pixels", f"The image has {pixels:,} pixels; at most {most:,} are taken."
        )


class _NewFile:
    """An empty file in `folder`; gone at the end of its block unless it was kept."""

    def __init__(self, folder: Path) -> None:
        try:
            descriptor, path = tempfile.mkstemp(dir=folder)
        except OSError as error:
            raise disk_error(error) from None
        os.close(descriptor)
        self.path = Path(path)
        self._kept = False

    def __enter__(self) -> _NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Leave the file to the caller."""
        self._kept = True


# --- A worker, seen from the service -------------------------------------------------------------


class _WorkerLost(Exception):
    """The worker gave no answer. `sentence` says so to people."""

    def __init__(self, message: str, sentence: str) -> None:
        super().__init__(message)
        self.sentence = sentence


class _Worker:
    """One process that converts; of one thread at a time, but for `kill`."""

    def __init__(self, max_memory: int) -> None:
        # Not what else the service's environment holds: a decoder needs no client secret.
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(  # noqa: S603  # a fixed command
                [sys.executable, "-m", "imageload.convert.worker", str(max_memory)],
                cwd=Path(__file__).parents[2],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # a Ctrl-C in the terminal is the service's to handle
            )
        except OSError as error:
            _log.error("no worker can be started: %s", error)
            raise errors.ResourceError(
                "The service can start no process to convert images with."
            ) from None
        self._images = 0
        self._answered = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def fit(self) -> bool:
        """Whether it may have another image."""
        return self._answered and self._images < _IMAGES_A_WORKER

    def begin(self) -> None:
        """Wait until it is ready; raises _WorkerLost."""
        self._receive(_START_SECONDS)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Its answer within `seconds`; raises _WorkerLost, after which it is of no more use."""
        self._answered = False
        self._images += 1
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer to read either
            self._process.stdin.write(packed({"seconds": seconds, **request}))
        answer = self._receive(seconds)
        self._answered = True
        return answer

    def kill(self) -> None:
        """End it at once; whoever waits for its answer sees it lost."""
        self._process.kill()

    def end(self) -> None:
        """End it and let go of all that it had."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        message = b""
        while (length := _length(message)) is None or len(message) < length:
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                raise _WorkerLost(
                    f"no answer in {seconds:g} s",
                    f"The image took longer than {seconds:g} seconds to convert.",
                )
            piece = os.read(descriptor, _MAX_MESSAGE)
            if not piece or len(message) > _MAX_MESSAGE:
                self._process.kill()
                status = self._process.wait()
                raise _WorkerLost(f"it ended with {status}", "The image made its decoder crash.")
            message += piece
        answer: dict[str, Any] = json.loads(message[4:length])
        return answer


def packed(message: dict[str, Any]) -> bytes:
    """A message as it goes through a pipe: its length in four bytes, then JSON."""
    content = json.dumps(message).encode()
    return struct.pack(">I", len(content)) + content


def _length(message: bytes) -> int | None:
    """How many bytes the packed message has that begins so, or None if that cannot be told yet."""
    return 4 + int.from_bytes(message[:4], "big") if len(message) >= 4 else None
