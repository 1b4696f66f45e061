"""`upload --local`: the service as a child process, on a free port of this machine.

The child stops when its stdin is closed, so it ends with this process, also when that is killed.
A random token keeps other users of the machine out. Its log is read for the URL; errors are shown.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from imageload.cli.connection import CommandError, Misuse
from imageload.cli.output import print_message
from imageload.escapes import escape_controls

_DEFAULTS = ["--port=0", "--address=127.0.0.1", "--sandbox-port=0", "--grace-seconds=1"]
# The lines that are read here are of the level INFO and in the text format.
_REQUIRED = ["--log-level=INFO", "--log-format=text"]
_LISTENING = re.compile(r" listening on (http\S+)")
_SANDBOX = re.compile(r" the sandbox stands in for Imgur at \S+, images in (.+)")
_NO_ERROR = re.compile(r"\S+ \S+ (DEBUG|INFO|WARNING) ")
_STOP_SECONDS = 30.0


@contextlib.contextmanager
def running_service(options: Sequence[str], token: str = "") -> Iterator[tuple[str, str]]:
    """(URL, token) of a new service with these options, which ends with the block.

    Raises Misuse if the options are wrong, CommandError if the service cannot start; its own
    message is then on stderr. SIGTERM ends the block with SystemExit.
    """
    token = token or secrets.token_urlsafe()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        process = _start(options, token)
        urls: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_log, args=(process, urls), daemon=True)
        try:
            reader.start()
            url = urls.get()
            if url is None:
                kind = Misuse if process.wait() == 2 else CommandError
                raise kind("The service did not start.")
            yield url, token
        finally:
            _stop(process)
            reader.join()
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(options: Sequence[str], token: str) -> subprocess.Popen[str]:
    """The child, which imports the same `imageload` as this process from any folder."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IMAGELOAD_API_TOKEN": token,
    }
    serve = [sys.executable, "-P", "-m", "imageload", "serve", "--exit-with-parent"]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*serve, *_DEFAULTS, *options, *_REQUIRED],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches this process only, which then stops the child
    )


def _read_log(process: subprocess.Popen[str], urls: queue.SimpleQueue[str | None]) -> None:
    """Put the service's URL into `urls`, then None at the end of its log; show errors."""
    assert process.stderr is not None
    with process.stderr as log:
        for line in log:
            if found := _LISTENING.search(line):
                urls.put(found[1])
            elif found := _SANDBOX.search(line):
                print_message(
                    "No IMGUR_CLIENT_ID: the sandbox stands in for Imgur, and its links work "
                    f"until this command ends. The images stay in {found[1]}."
                )
            elif not _NO_ERROR.match(line):
                print(escape_controls(line.rstrip("\n")), file=sys.stderr, flush=True)
    urls.put(None)


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop the service; kill it after _STOP_SECONDS, or at Ctrl-C."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
