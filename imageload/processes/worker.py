"""Child processes that answer requests, as the service sees them; `child.serve` is their side."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Final

from imageload import errors
from imageload.processes.child import packed

_log = logging.getLogger(__name__)

_START_SECONDS: Final = 30  # limit for the start, which takes 0.2
_MAX_REQUESTS: Final = 500  # then the worker is replaced, which bounds the leaks of a codec
_ENVIRONMENT: Final = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL"}
)


class WorkerLost(Exception):
    """A worker ended before its response. `signal` ended it; 0 if it ended by itself."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class Worker:
    """One process of a module that calls `child.serve`. It has one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._requests = 0
        self._is_ready = False

    @classmethod
    async def start(cls, module: str) -> Worker:
        """A worker that is ready; raises ResourceError."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                cwd=Path(__file__).parents[2],
                # It needs none of the service's secrets.
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
        is_alive = self._is_ready and self._process.returncode is None
        return is_alive and self._requests < _MAX_REQUESTS

    async def ask(self, request: bytes, seconds: float | None = None) -> bytes:
        """Its response; raises WorkerLost if it ends before that, and TimeoutError."""
        self._is_ready = False
        self._requests += 1
        assert self._process.stdin is not None
        async with asyncio.timeout(seconds):
            self._process.stdin.write(packed(request))
            try:
                return await self._receive()
            except (OSError, EOFError):
                raise WorkerLost(max(0, -await self._process.wait())) from None

    async def _receive(self) -> bytes:
        assert self._process.stdout is not None
        length = int.from_bytes(await self._process.stdout.readexactly(4), "big")
        message = await self._process.stdout.readexactly(length)
        self._is_ready = True
        return message

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


class Workers:
    """Processes of one module, each started when no other is idle. Runs on the transfer loop."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [worker.pid for worker in list(self._all)]

    async def ask(self, request: bytes, seconds: float | None = None) -> bytes:
        """The response of a worker, which is killed after `seconds` or if the task is cancelled.

        Raises TimeoutError, WorkerLost, ResourceError if no process can be started, and Shutdown
        after `close`.
        """
        worker = await self._take()
        try:
            return await worker.ask(request, seconds)
        except WorkerLost:
            self._check_open()
            raise
        finally:
            await self._give_back(worker)

    async def close(self) -> None:
        """End every process. Requests in progress raise Shutdown."""
        self._is_closed = True
        for worker in [*self._all]:
            await worker.end()
        self._all.clear()
        self._idle.clear()

    async def _take(self) -> Worker:
        self._check_open()
        while self._idle:
            worker = self._idle.pop()
            if worker.is_reusable:
                return worker
            await self._give_back(worker)
        worker = await Worker.start(self._module)
        self._all.add(worker)
        if self._is_closed:
            await self._give_back(worker)
        self._check_open()
        return worker

    async def _give_back(self, worker: Worker) -> None:
        if worker.is_reusable and not self._is_closed:
            self._idle.append(worker)
        else:
            self._all.discard(worker)
            await worker.end()

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.Shutdown("The service stopped before this was done.")


def _not_started(error: Exception) -> errors.ResourceError:
    _log.error("no worker can be started: %r", error)
    return errors.ResourceError("The service cannot start a process.")
