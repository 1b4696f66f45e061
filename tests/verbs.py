"""The random-verbs test: eight threads send random requests, and then everything must add up.

    eight threads ──POST, retry, cancel, purge, check, rehost, images, events──► the service
    meanwhile: finished jobs are retired; or the process is killed and starts again    │ ▲
                                                                          sandbox ◄────┘ └─ origin

tests/verbs_walk.py sends the requests, tests/verbs_audit.py counts afterwards.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.testing import RunningSandbox, running_sandbox
from tests.contract import Contract, running_contract
from tests.origin import running_origin
from tests.service import Client, RunningService, ServiceProcess, running_service
from tests.verbs_audit import Audit, is_settled, listed_jobs
from tests.verbs_walk import JOBS, Pages, Story, Walk

# `python main.py` with short waits, which are not options.
_START = """
import functools, sys
import main
from imageload.tuning import Tuning
from imageload.web import app
short = {"host_rest_seconds": 0.1, "host_give_up_seconds": 2.0, "retry_seconds": 0.1}
short |= {"quota_wait_seconds": 0.2, "blocked_wait_seconds": 0.2}
app.Tuning = functools.partial(Tuning, **short)
sys.exit(main.main(sys.argv[1:]))
"""
_PAUSE = 0.05
_TROUBLE_SECONDS = 5.0
_LONGEST_LIFE_SECONDS = 4.0

_ACTIONS = {"post", "retry", "cancel", "purge"}
# So few that jobs wait for their turn, and are retired while they are asked about.
_SMALL: dict[str, Any] = {
    "max_active_jobs": 3,
    "keep_jobs": 15,
    "job_window": 8,
    "quota_wait_seconds": 0.2,
    "blocked_wait_seconds": 0.2,
    "download_seconds": 5.0,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`wrong` must be empty: it has one message for each inconsistency."""

    wrong: list[str]
    answers: Counter[tuple[str, int]]
    """(verb, status) of every response."""
    counts: Counter[str]


class _World:
    """An origin's pages, a sandbox with faults, and a receiver of callbacks."""

    def __init__(self, pages: Pages, sandbox: RunningSandbox, hook: Contract) -> None:
        self.pages = pages
        self.sandbox = sandbox
        self.hook = hook
        self._renewed_at = 0.0

    def keep_in_trouble(self) -> None:
        """Give one request in ten latency, a lost response or an error."""
        if time.monotonic() < self._renewed_at:
            return
        self._renewed_at = time.monotonic() + _TROUBLE_SECONDS
        self.sandbox.clear_faults()
        for route, faults in _TROUBLE.items():
            for number, fault in enumerate(faults * 10):
                self.sandbox.fault(**fault, match=route, after=10 * number)


# The cost of a cut-off upload counts as spent until Imgur reports otherwise.
_RICH = {"user_credits": 10**6, "client_credits": 10**7, "posts": 10**6}

_TROUBLE: dict[str, list[dict[str, Any]]] = {
    "upload": [
        {"name": "slow_answer", "seconds": 0.3, "count": 4},
        {"name": "reset_after_body"},
        {"name": "reset_before_store"},
        {"name": "internal"},
        {"name": "reset_mid_body"},
    ],
    "image": [{"name": "slow_answer", "seconds": 0.2, "count": 2}, {"name": "internal"}],
    "album": [{"name": "data_false", "count": 2}, {"name": "internal"}],
}


@contextmanager
def _world(folder: Path) -> Iterator[_World]:
    with (
        running_origin() as origin,
        running_sandbox(folder / "sandbox", unlimited=True, **_RICH) as sandbox,
        running_contract() as hook,
    ):
        for number in range(1, 2_000):
            hook.put("POST /hook", {}, status=503 if number % 20 == 0 else 200)
        yield _World(Pages(origin), sandbox, hook)


def walk_with_retirement(folder: Path, seconds: float, *, seed: int, journal: bool) -> Outcome:
    """Walk over a service in this process, which retires finished jobs all along.

    Without `journal` it may be several nodes (`tests.service.nodes`).
    """
    options = dict(_SMALL)
    if journal:
        options["store"] = str(folder / "journal")
    with _world(folder) as world, _logged() as log:
        base = world.sandbox.url
        with running_service(
            folder / "temp", imgur_base_url=base, imgur_link_base=base, **options
        ) as service:
            with Walk(service, world.pages, world.hook, seed) as walk:
                deadline = time.monotonic() + seconds
                # A slow machine walks for longer: until jobs were retired, each verb answered.
                while (
                    time.monotonic() < deadline
                    or not _has_retired(service, walk.story)
                    or _ACTIONS - _answered(walk.story)
                ):
                    _note_ends(walk.story, service)
                    _maintain(service)
                    world.keep_in_trouble()
                    time.sleep(_PAUSE)
            is_durable = service.service.store.is_durable
            audit = _audit(world, walk.story, service, journaled=is_durable)
            if left := service.temp_files:
                audit.wrong.append(f"temp files are left: {left}")
    audit.check_log(log)
    return Outcome(audit.wrong, walk.story.answers, audit.counts)


def _maintain(service: RunningService) -> None:
    """Run the maintenance of main.py constantly: retire finished jobs, among others."""
    service.service.run_maintenance()


def _has_retired(service: RunningService, story: Story) -> bool:
    return sum(service.service.registry.totals().jobs.values()) < len(story.urls)


def _note_ends(story: Story, client: Client) -> None:
    """Note the marks of jobs that have ended: some may be retired next."""
    now = time.monotonic()
    for summary in filter(is_settled, listed_jobs(client)):
        job_id = summary["job_id"]
        if summary["counts"]["maybe_duplicate"]:
            found = client.get(f"{JOBS}/{job_id}/images")
            if found.status_code == 505:  # its retirement had begun
                story.ended.pop(job_id, None)
                continue
            images = found.json()["images"]
            story.marked.update(image["url"] for image in images if image["maybe_duplicate"])
        story.ended[job_id] = now


def _audit(world: _World, story: Story, client: Client, *, journaled: bool) -> Audit:
    audit = Audit(story, client, world.sandbox, world.pages, world.hook, journaled=journaled)
    audit.count()
    return audit


def _answered(story: Story) -> set[str]:
    return {verb for verb, _ in list(story.answers)}


def walk_with_kills(folder: Path, seconds: float, *, seed: int) -> Outcome:
    """Walk over a process that is killed with -9 and started again on its journal."""
    chance = random.Random(seed)
    log: list[str] = []
    with _world(folder) as world:
        service = _process(folder, world.sandbox)
        try:
            with Walk(service, world.pages, world.hook, seed, may_break=True) as walk:
                deadline = time.monotonic() + seconds
                # Short lives answer few requests: it walks on until each verb was answered.
                while time.monotonic() < deadline or _ACTIONS - _answered(walk.story):
                    world.keep_in_trouble()
                    time.sleep(chance.uniform(0.2, _LONGEST_LIFE_SECONDS))
                    service.stop(signal.SIGKILL)
                    walk.story.kills.append(time.monotonic())
                    log += service.log
                    service = _process(folder, world.sandbox)
                    walk.client = service
            audit = _audit(world, walk.story, service, journaled=True)
            if service.stop() != 0:
                audit.wrong.append("the last process did not end well")
        finally:
            service.stop(signal.SIGKILL)
    audit.check_log([*log, *service.log])
    if left := [path for path in (folder / "temp").rglob("*") if path.is_file()]:
        audit.wrong.append(f"temp files are left: {left}")
    return Outcome(audit.wrong, walk.story.answers, audit.counts)


def _process(folder: Path, sandbox: RunningSandbox) -> ServiceProcess:
    (folder / "temp").mkdir(exist_ok=True)
    return ServiceProcess(
        "--port=0",
        "--allow-origin=127.0.0.1",
        f"--store={folder / 'journal'}",
        f"--temp-dir={folder / 'temp'}",
        f"--imgur-base-url={sandbox.url}",
        f"--imgur-link-base={sandbox.url}",
        environment={"IMGUR_CLIENT_ID": "test"},
        source=_START,
    )


class _Lines(logging.Handler):
    """Formats warnings and worse into `lines`, but for those of the sandbox."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("sandbox"):
            self.lines.append(self.format(record))


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect the warnings of this process and the exceptions that end its threads."""
    handler = _Lines()
    hook = threading.excepthook

    def note(args: threading.ExceptHookArgs) -> None:
        handler.lines.append(f"Traceback of thread {args.thread}: {args.exc_value!r}")

    logging.getLogger().addHandler(handler)
    threading.excepthook = note
    try:
        yield handler.lines
    finally:
        threading.excepthook = hook
        logging.getLogger().removeHandler(handler)
