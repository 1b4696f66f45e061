"""Conversions from a test's thread: Converters on an asyncio loop in a thread of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from imageload.convert.pool import ConversionRules, Converters
from imageload.fetch.sniff import read_header
from imageload.fetch.tempfiles import TempFiles
from imageload.image import Report
from tests.waiting import PATIENCE

T = TypeVar("T")


@dataclass(frozen=True)
class Converted:
    """A new image file."""

    path: Path
    type: str
    width: int
    height: int
    bytes: int
    sha256: str


class Converter:
    """Converts copies of files, in a temp folder that `close` removes."""

    def __init__(
        self,
        *,
        workers: int = 2,
        seconds: float = PATIENCE,
        max_pixels: int = 50_000_000,
        max_memory: int = 2**30,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="conversions-"))
        self.files = TempFiles(self.folder)
        self.clocked: list[float] = []
        rules = ConversionRules(seconds=seconds, max_pixels=max_pixels, max_memory=max_memory)
        self.converters = Converters(rules, self.files, workers=workers, clock=self.clocked.append)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result."""
        return self.submit(coroutine).result(PATIENCE)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Its future result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def report(self, path: Path, kind: str) -> Report:
        """The Report of a copy of the file."""
        header = read_header(path)
        descriptor, temp_fn = self.files.take()
        os.close(descriptor)
        shutil.copyfile(path, temp_fn)
        return Report(
            temp_fn=temp_fn,
            status_code=200,
            bytes=path.stat().st_size,
            type=kind,
            width=header.width if header else None,
            height=header.height if header else None,
            sha256="",
        )

    def convert(self, path: Path, kind: str, *, max_bytes: int = 10**9) -> Converted:
        """The image as one that Imgur accepts, of at most `max_bytes`."""
        return self._new(path, kind, max_bytes=max_bytes, shrink=False)

    def shrink(self, path: Path, kind: str, max_bytes: int) -> Converted:
        """The image in at most `max_bytes`."""
        return self._new(path, kind, max_bytes + 1, max_bytes=max_bytes, shrink=True)

    def _new(self, path: Path, kind: str, least_bytes: int = 0, **rules: Any) -> Converted:
        in_use = self.files.in_use
        self.converters._rules = dataclasses.replace(self.converters._rules, **rules)
        try:
            report = self.report(path, kind)
            report = replace(report, bytes=max(report.bytes, least_bytes))
            new = self.run(self.converters.if_needed(report, "job"))
        except BaseException:
            assert self.files.in_use == in_use, "a failed conversion gives back all files"
            raise
        assert new.converted_from == kind
        assert new.width
        assert new.height
        assert self.files.in_use == in_use + 1, "the original is given back"
        return Converted(Path(new.temp_fn), new.type, new.width, new.height, new.bytes, new.sha256)

    def endless(self, side: int | None = None) -> Report:
        """The Report of a named pipe, whose read ends when the pipe is closed.

        It says that its image has `side` x `side` pixels.
        """
        descriptor, path = self.files.take()
        os.close(descriptor)
        Path(path).unlink()
        os.mkfifo(path)
        return Report(path, 200, 2**21, "image/bmp", side, side, "")

    def ask(self, path: Path, kind: str, **request: Any) -> dict[str, Any]:
        """Return a worker's response, without the check of the image's header."""
        standard = {
            "path": str(path),
            "type": kind,
            "new_path": str(path.parent / "new"),
            "convert": True,
            "shrink": False,
            "max_bytes": 10**9,
            "max_pixels": 50_000_000,
            "max_memory": 2**31,
            "seconds": self.converters._rules.seconds,
        }
        return self.run(self.converters._ask({**standard, **request}))

    def pids(self) -> list[int]:
        """The process ids of all workers."""
        return self.converters._workers.pids

    def close(self) -> None:
        """End the workers, the loop and the folder."""
        if self._loop.is_closed():
            return
        self.run(self.converters.close())
        self.run(_others_done())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)


async def _others_done() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
