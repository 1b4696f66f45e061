"""An outage of 15 s against the service as a process, measured: `python -m tests.soak --outages`.

    the origin resets, answers 503, or its name does not resolve
        it comes back after 15 s: all of 100 images land
        it never does: all end together, and after it is back a retry brings all of them

A name is taken away by a copy of /etc/hosts in a mount namespace of the service (unshare).
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.testing import running_sandbox
from tests.origin import IMAGES, Origin, answer, reset, running_origin
from tests.service import ServiceProcess

IMAGES_OF_A_JOB = 100
AWAY_SECONDS = 15.0
NAME = "images.example"
KINDS = ("reset", "503", "dead name")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job went; times in seconds since its POST."""

    kind: str
    comes_back: bool
    landed: int
    first_end: float
    last_end: float
    requests: int
    reason: str
    landed_after_retry: int

    @property
    def is_right(self) -> bool:
        """All landed; or all ended within 30 s of the first, and a retry brought them back."""
        if self.comes_back:
            return self.landed == IMAGES_OF_A_JOB
        is_soon = self.last_end - self.first_end < 30
        return is_soon and self.landed == 0 and self.landed_after_retry == IMAGES_OF_A_JOB


def play(kind: str, *, comes_back: bool) -> Outcome:
    """Post a job whose origin is away, and follow it to its end."""
    with tempfile.TemporaryDirectory() as name, running_origin() as origin:
        folder = Path(name)
        hosts = folder / "hosts"
        with running_sandbox(folder / "sandbox", unlimited=True) as sandbox:
            service = _service(folder, hosts, sandbox.url)
            try:
                return _follow(service, origin, _Switch(kind, origin, hosts), kind, comes_back)
            finally:
                service.stop()


class _Switch:
    """Takes the origin away and brings it back; counts the requests that it saw meanwhile."""

    def __init__(self, kind: str, origin: Origin, hosts: Path) -> None:
        self.requests = 0
        self._is_away = True
        self._hosts = hosts
        self._page = reset if kind == "reset" else answer(b"", "503 Service Unavailable")
        png = answer((IMAGES / "png-rgb.png").read_bytes())

        def page(connection: socket.socket) -> None:
            self.requests += self._is_away
            (self._page if self._is_away else png)(connection)

        origin.default = page
        hosts.write_text("" if kind == "dead name" else f"127.0.0.1 {NAME}\n")

    def bring_back(self) -> None:
        self._is_away = False
        self._hosts.write_text(f"127.0.0.1 {NAME}\n")


def _service(folder: Path, hosts: Path, imgur: str) -> ServiceProcess:
    hosts.touch()
    mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ServiceProcess(
        "--port=0",
        f"--temp-dir={folder}",
        "--imgur-client-id=x",
        f"--imgur-base-url={imgur}",
        f"--imgur-link-base={imgur}",
        f"--allow-origin={NAME}",
        command=["unshare", "-rm", "sh", "-c", mount, str(hosts), sys.executable, "main.py"],
    )


def _follow(
    service: ServiceProcess, origin: Origin, switch: _Switch, kind: str, comes_back: bool
) -> Outcome:
    job_id = service.submit([f"http://{NAME}:{origin.port}/{n}" for n in range(IMAGES_OF_A_JOB)])
    begun, first_end = time.monotonic(), 0.0
    if comes_back:
        timer = threading.Timer(AWAY_SECONDS, switch.bring_back)
        timer.start()
    while not (status := service.status(job_id))["finished"]:
        if not first_end and (status["uploaded"]["completed"] or status["uploaded"]["failed"]):
            first_end = time.monotonic() - begun
        time.sleep(0.02)  # polls
    last_end, landed = time.monotonic() - begun, len(status["uploaded"]["completed"])
    errors = [image["error"] for image in service.records(job_id).values()]
    reasons = sorted({error["message"] for error in errors if error is not None})
    after = landed
    if not comes_back:
        switch.bring_back()
        url = f"{service.url}/v1/images/upload/{job_id}/retry?only=transient"
        service.session.post(url, timeout=30).raise_for_status()
        after = len(service.finish(job_id, 120)["uploaded"]["completed"])
    return Outcome(
        kind,
        comes_back,
        landed,
        first_end or last_end,
        last_end,
        switch.requests,
        " / ".join(reasons),
        after,
    )


def measure(show: Callable[[str], object] = print) -> bool:
    """Play every outage, all at once; True if every one went as it should."""
    plays = [(kind, comes_back) for kind in KINDS for comes_back in (True, False)]
    outcomes: dict[tuple[str, bool], Outcome] = {}

    def run(kind: str, comes_back: bool) -> None:
        outcomes[kind, comes_back] = play(kind, comes_back=comes_back)

    threads = [threading.Thread(target=run, args=each) for each in plays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in plays:
        outcome = outcomes.get(each)
        show(f"{'right' if outcome and outcome.is_right else 'WRONG'} {outcome}")
    return all(each in outcomes and outcomes[each].is_right for each in plays)
