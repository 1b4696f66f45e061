"""A process of convert.worker, as the service sees it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any, Final

from imageload import errors

_log = logging.getLogger(__name__)

_START_SECONDS: Final = 30  # limit for the start, which takes 0.2
_MAX_IMAGES: Final = 500  # then the worker is replaced, which bounds the leaks of a codec
_MAX_MESSAGE: Final = 64 * 1024
_ENVIRONMENT: Final = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL"}
)


class OutOfMemory(errors.DownloadError):
    """A worker had not enough memory for its image; `conversion_failed` if that is final."""

    def __init__(self, message: str) -> None:
        super().__init__("conversion_failed", message)


class Worker:
    """One process of convert.worker. It converts one image at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._images = 0
        self._is_ready = False

    @classmethod
    async def start(cls) -> Worker:
        """A worker that is ready; raises ResourceError."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "imageload.convert.worker",
                cwd=Path(__file__).parents[2],
                # A decoder needs none of the service's secrets.
                env={name: text for name, text in os.environ.items() if name in _ENVIRONMENT},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for the service
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread to wait for its end
            raise _not_started(error) from None
        worker = cls(process)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await worker._receive()
        except (OSError, EOFError) as error:
            raise _not_started(error) from None
        finally:
            if not worker._is_ready:
                await worker.end()
        return worker

    @property
    def is_reusable(self) -> bool:
        """True if it is alive, has responded to its last request, and may take another."""
        return self._is_ready and self._process.returncode is None and self._images < _MAX_IMAGES

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its response; raises `conversion_failed` after a crash, or after request["seconds"].

        Raises OutOfMemory if another process has killed it, as the system does to free memory.
        """
        seconds = request["seconds"]
        self._is_ready = False
        self._images += 1
        assert self._process.stdin is not None
        try:
            async with asyncio.timeout(seconds):
                self._process.stdin.write(packed(request))
                try:
                    return await self._receive()
                except (OSError, EOFError):
                    status = await self._process.wait()
        except TimeoutError:
            message = f"The image took longer than {seconds:g} seconds to convert."
            raise errors.DownloadError("conversion_failed", message) from None
        if status == -signal.SIGKILL:
            raise OutOfMemory("The image's decoder was killed: the machine is short of memory.")
        raise errors.DownloadError("conversion_failed", "The image made its decoder crash.")

    async def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = int.from_bytes(await self._process.stdout.readexactly(4), "big")
        if length > _MAX_MESSAGE:
            raise EOFError("not a message of ours")
        message: dict[str, Any] = json.loads(await self._process.stdout.readexactly(length))
        self._is_ready = True
        return message

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


def _not_started(error: Exception) -> errors.ResourceError:
    _log.error("no worker can be started: %r", error)
    return errors.ResourceError("The service cannot start a process to convert.")


def packed(message: dict[str, Any]) -> bytes:
    """A message as it is sent through a pipe: its length in four bytes, then JSON."""
    content = json.dumps(message).encode()
    return struct.pack(">I", len(content)) + content
