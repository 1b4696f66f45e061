"""An ImageLoad whose downloads and uploads are blocking calls of the test."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import queue
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from imageload.dedupe import Dedupe
from imageload.fetch.download import Hop
from imageload.fetch.hosts import HostRules, Hosts
from imageload.fetch.spool import Spool
from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.image import Downloaded, Failed, Image, Landed, Report, Uploaded
from imageload.job import Change, Job
from imageload.jobs import WindowRules
from imageload.loader import Capacity, ImageLoad
from imageload.pipeline import Observer, Pipeline
from imageload.registry import Order
from imageload.retention import Retention
from imageload.retry import RetryRule
from imageload.store.memory import MemoryStore
from imageload.targets import Upload, UploadCancelled
from imageload.targets.limits.gate import Gate
from imageload.targets.limits.quota import UPLOAD, Quotas
from imageload.transport.curl import TransferLoop
from imageload.transport.slots import Slots
from tests.waiting import PATIENCE, wait_until

T = TypeVar("T")
DownloadCall = Callable[[str], Report]
UploadCall = Callable[[str], Landed]


def urls(count: int, job: str = "job") -> list[str]:
    return [f"https://{job}.example/{number}" for number in range(count)]


def link_of(url: str) -> str:
    return url.replace("https://", "https://i.imgur.com/")


def report_of(path: Path, content: str = "") -> Report:
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return Report(str(path), 200, len(content), "image/png", 1, 1, sha256)


class Folder:
    """Real temp files that contain their URL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.most = 0
        self.made: list[str] = []
        self.given_back: list[str] = []
        self._lock = threading.Lock()
        path.mkdir()

    def download(self, url: str) -> Report:
        """A temp file for `url`."""
        return self.file_of(url)

    def file_of(self, content: str) -> Report:
        """A temp file with `content`."""
        with self._lock:
            path = self.path / f"tmp{len(self.made)}"
            self.made.append(str(path))
            path.write_text(content)
            self.most = max(self.most, len(self.files()))
        return report_of(path, content)

    def upload(self, temp_fn: str) -> Landed:
        """A link derived from the URL."""
        return Landed(link_of(Path(temp_fn).read_text()), "d3l3t3h4sh")

    def give_back(self, temp_fn: str, _: int) -> None:
        """Release a temp file, like TempFiles; it may be missing."""
        self.given_back.append(temp_fn)
        Path(temp_fn).unlink(missing_ok=True)

    def files(self) -> list[str]:
        """The temp files that are there now."""
        return [path.name for path in self.path.iterdir()]


def nowhere(_: str) -> Report:
    """A download without a file, for jobs in which files do not matter."""
    return report_of(Path("/nonexistent/file"))


class Tap(Generic[T]):
    """Calls that report their URL and then wait for `resume`."""

    def __init__(self, inner: Callable[[str], T]) -> None:
        self.at: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._inner = inner
        self._let_on = threading.Semaphore(0)

    def __call__(self, url: str) -> T:
        self.at.put(url)
        assert self._let_on.acquire(timeout=PATIENCE)
        return self._inner(url)

    def resume(self, count: int = 1) -> None:
        """Continue `count` calls."""
        self._let_on.release(count)

    def next(self, count: int) -> list[str]:
        """The URLs of the next `count` calls."""
        return [self.at.get(timeout=PATIENCE) for _ in range(count)]


class SlowStore(MemoryStore):
    """A durable store in which nothing is durable until the test calls `write`."""

    is_durable = True

    def __init__(self) -> None:
        super().__init__()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    async def durable(self, job: Job | None = None) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        written = asyncio.Event()
        self._waiting.put(lambda: _threadsafe(loop, written.set))
        await written.wait()

    def take(self, count: int) -> list[Callable[[], None]]:
        """Return a call that continues the next `count` waiting calls."""
        return [self._waiting.get(timeout=PATIENCE) for _ in range(count)]

    def write(self, count: int) -> None:
        """Make the Changes of the next `count` waiting calls durable."""
        for done in self.take(count):
            done()


class _Blocking:
    """Calls that block, each on a thread, awaited from the loop."""

    def __init__(self, call: Callable[[str], Any], threads: int, name: str) -> None:
        self._call = call
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def __call__(self, argument: str) -> Any:
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._call, argument)
        return await asyncio.shield(call)

    async def late(self, argument: str, on_late: Callable[[Any], None]) -> Any:
        """The result; if the task is cancelled first, `on_late` gets the late result."""
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._call, argument)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.add_done_callback(
                lambda ended: on_late(ended.result()) if not ended.exception() else None
            )
            raise

    def close(self) -> None:
        """Wait for the calls that run."""
        self._threads.shutdown()


class FakeDownloader:
    """Downloads by a blocking call."""

    def __init__(self, call: DownloadCall, folder: Folder, threads: int) -> None:
        self._blocking = _Blocking(call, threads, "download")
        self._folder = folder
        self.close = self._blocking.close

    async def fetch(self, hop: Hop) -> Report:
        def discard(report: Report) -> None:
            self._folder.give_back(report.temp_fn, report.bytes)

        report: Report = await self._blocking.late(hop.target.url, discard)
        return report


class FakeConverters:
    """Nothing needs a conversion."""

    async def if_needed(self, report: Report, key: str) -> Report:  # noqa: ARG002
        return report


class FakeTarget:
    """Uploads by a blocking call, which has the whole body; `response` gets the method, the route
    and the fields of other requests, and returns Imgur's `data` or what gives it when awaited.

    `cancelled` counts the uploads that were cancelled while they were sent.
    """

    def __init__(
        self, call: UploadCall, threads: int, response: Callable[[str, str, Any], Any] | None
    ) -> None:
        self._blocking = _Blocking(call, threads, "upload")
        self._line, self._slots = Slots(2 * threads), Slots(threads)
        self._response = response or (lambda *_: None)
        self.gate = Gate(Quotas(), UPLOAD)
        self.purging = asyncio.Lock()
        self.place, self.is_repeatable, self.link_base = "Imgur", False, "https://i.imgur.com/"
        self.albums, self.anonymous = self, True
        self.cancelled = 0
        self.close = self._blocking.close

    async def land(self, key: str, upload: Upload) -> Landed:
        landed: Landed = await self._line.run(key, lambda: self._announced(key, upload))
        return landed

    async def _announced(self, key: str, upload: Upload) -> Landed:
        if upload.announce is not None:
            await upload.announce()
        return await self._slots.run(key, lambda: self._sent(upload))

    async def _sent(self, upload: Upload) -> Landed:
        upload.on_send(True)
        try:
            landed: Landed = await self._blocking(upload.path)
            return landed
        except asyncio.CancelledError:
            self.cancelled += 1
            raise UploadCancelled from None
        finally:
            upload.on_send(False)

    async def delete(self, key: str, landed: Landed) -> None:
        await self.request(key, "DELETE", f"image/{landed.deletehash}")

    def deleting(self, _: object) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    async def request(self, _: str, method: str, route: str, fields: Any = None) -> Any:
        response = self._response(method, route, fields)
        return await response if isinstance(response, Awaitable) else response

    def album_link(self, album_id: str) -> str:
        return f"https://imgur.com/a/{album_id}"


async def _other_tasks() -> list[str]:
    """The tasks on the loop."""
    return [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def _threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


class Wired:
    """An ImageLoad on few threads, with an event for each finished job."""

    def __init__(
        self,
        download: DownloadCall,
        upload: UploadCall,
        folder: Folder,
        *,
        threads: int = 8,
        per_host: int = 1_000,
        rules: HostRules | None = None,
        window: int = 8,
        retry: RetryRule | None = None,
        max_active_jobs: int = 8,
        max_waiting_jobs: int = 100,
        keep_jobs: int = 10_000,
        keep_hours: float = math.inf,
        temp_bytes: float = math.inf,
        largest_image: int = 0,
        observers: Iterable[Observer] = (),
        store: MemoryStore | None = None,
        response: Callable[[str, str, Any], Any] | None = None,
    ) -> None:
        self._finished: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.changes: defaultdict[str, list[Change]] = defaultdict(list)
        self.transfers = TransferLoop()
        self.transfers.start()
        self.store = store or MemoryStore()
        self._downloader = FakeDownloader(download, folder, threads)
        self.target = FakeTarget(upload, threads, response)
        self.hosts = Hosts(replace(rules or HostRules(failures=100_000), per_host=per_host))
        parts: Any = {
            "downloader": self._downloader,
            "converters": FakeConverters(),
            "target": self.target,
            "files": folder,
        }
        room = TempBytes(temp_bytes, largest_image)
        self.pipeline = Pipeline(
            downloads=Slots(threads),
            hosts=self.hosts,
            dedupe=Dedupe(),
            retry=retry or RetryRule(max_tries=3, seconds=0.002, cap_seconds=0.002),
            temp_bytes=room,
            spool=Spool(TempFiles(folder.path), room, {}),
            store=self.store,
            observers=(self.store.record, *observers, self._observe),
            **parts,
        )
        self.load = ImageLoad(
            self.transfers,
            self.pipeline,
            WindowRules(places=window, downloads=threads),
            Capacity(max_active_jobs=max_active_jobs, max_waiting_jobs=max_waiting_jobs),
            Retention(keep_jobs=keep_jobs, keep_hours=keep_hours),
        )

    def _observe(self, job: Job, change: Change) -> None:
        self.changes[job.job_id].append(change)
        if job.summary().finished:
            self._finished[job.job_id].set()

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`, run on the transfer loop."""
        return self.transfers.submit(coroutine).result(PATIENCE)

    def start(self, url_list: list[str], *, dedupe: bool = False, album: str | None = None) -> Job:
        """Start a job for `url_list`."""
        (job,) = self.load.upload([Order(items=url_list, dedupe=dedupe, album=album)])
        return job

    def start_several(self, lists: list[list[str]]) -> list[Job]:
        """Start a job for each of `lists`."""
        return self.load.upload([Order(items=each, dedupe=False) for each in lists])

    def wait_until_idle(self) -> None:
        """Return when every job is finished and no job has a thread."""
        wait_until(lambda: all(job.summary().finished for job in self.load.jobs()), PATIENCE)
        names = [f"job-{job.job_id[:8]}" for job in self.load.jobs()]
        wait_until(lambda: not {t.name for t in threading.enumerate()}.intersection(names))

    def close(self) -> None:
        """Stop like the service; check that no task and no thread is left."""
        if not self.transfers.loop.is_closed():
            assert self.load.close(PATIENCE)
            self._downloader.close()
            self.target.close()
            assert self.on_loop(_other_tasks()) == []
            assert self.transfers.close(PATIENCE)
        assert self.pipeline.temp_bytes.held == 0

    def wait(self, job: Job) -> dict[str, Image]:
        """The images of `job` by URL, once it is finished."""
        assert self._finished[job.job_id].wait(PATIENCE), job.snapshot()
        return {image.url: image for image in job.snapshot().images}

    def run(self, url_list: list[str]) -> dict[str, Image]:
        """The images of a job for `url_list`, once it is finished."""
        return self.wait(self.start(url_list))

    def failures(self, job: Job) -> list[str | None]:
        """The error code of each image of `job`, in order."""
        images = job.snapshot().images
        return [image.failure.code if image.failure else None for image in images]

    def is_left(self, job: Job) -> bool:
        """True if `job` was left open for a restart."""
        is_recorded = self.store.is_durable and self.load.is_closing
        return is_recorded and not job.summary().finished

    def attempts(self, job: Job, kind: type[Downloaded | Uploaded | Failed]) -> dict[str, int]:
        """The number of tries in each image's Change of `kind`."""
        return {
            job.image(change.index).url: change.attempts
            for change in self.changes[job.job_id]
            if isinstance(change, kind)
        }
