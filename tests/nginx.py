"""A real nginx for a test."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import real_component
from tests.waiting import PATIENCE

LISTEN = "127.0.0.1:PORT"
"""The address of a server in the configuration."""


@contextlib.contextmanager
def running_nginx(folder: Path, http: str) -> Iterator[str]:
    """nginx with the block `http`, in which a server listens on LISTEN; its URL."""
    nginx = real_component("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{}} http {{ access_log off; {temp} {http.replace('PORT', str(port))} }}"
    )
    process = subprocess.Popen([nginx, "-c", str(config), "-e", f"{folder}/error.log"])
    try:
        _wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)  # polls: nginx prints nothing when it listens
    pytest.fail("nginx did not start")
