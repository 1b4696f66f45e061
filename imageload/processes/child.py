"""The main function of a child process: it answers requests, and ends when its parent ends."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def serve(respond: Callable[[bytes], bytes]) -> None:
    """Answer requests until the standard input ends: at nice 10, and the first to be killed when
    the machine is out of memory.

    Both come behind their length in four bytes. `respond` should raise nothing: it would end the
    process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps a library's prints out of the responses
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # Linux: out of memory, this process is killed first
        Path("/proc/self/oom_score_adj").write_text("500")
    gc.freeze()
    responses.write(packed(b""))
    responses.flush()
    requests = sys.stdin.buffer
    while head := requests.read(4):
        response = respond(requests.read(int.from_bytes(head, "big")))
        responses.write(packed(response))
        responses.flush()
        del response
        gc.collect()  # Pillow leaves images in reference cycles: 190 MB after one of 48 megapixels


def _end_with_parent() -> None:
    """End this process when the other end of its standard input is closed."""
    poll = select.poll()
    poll.register(0, 0)  # reports POLLHUP unasked
    poll.poll()
    os._exit(0)


def limit_memory(max_memory: int) -> None:
    """Limit this process's private memory. On macOS the limit has no effect."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = max_memory if hard == resource.RLIM_INFINITY else min(max_memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def packed(message: bytes) -> bytes:
    """A message as it is sent through a pipe: behind its length in four bytes."""
    return struct.pack(">I", len(message)) + message
