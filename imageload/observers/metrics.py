"""Counts Changes of images for Prometheus: an observer, and a clock for each phase.

    Pipeline ──Change──► Metrics ──► registry ◄── a scrape (web/scrape.py adds gauges)

Every label takes its values from a bounded set: states, phases, codes of `imageload/errors.py`.
Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from imageload.documents.pool import Ending
from imageload.errors import ImageError, image_error_codes
from imageload.fetch.probe import LinkState
from imageload.image import (
    Downloaded,
    Failed,
    Purged,
    PurgeFailed,
    Requeued,
    ResponseLost,
    Uploaded,
    Uploading,
)
from imageload.job import CallbackEnded, Change, Job

Phase = Literal["download", "convert", "upload"]
PHASES: tuple[Phase, ...] = ("download", "convert", "upload")

# From an image on the same machine to one that takes all of its deadline.
_PHASE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# prometheus_client adds a series with the time of its creation to each counter; none is needed.
disable_created_metrics()  # type: ignore[no-untyped-call]

Observe = Callable[[float], object]


class Metrics:
    """An observer of Changes; any thread may call it.

    A scrape reads `registry`, to which other collectors may be added.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ends = self._counter(
            "imageload_images", "Images that have ended, by state and error code.", "state", "code"
        )
        self._completed = ends.labels("completed", "")
        self._failed = {code: ends.labels("failed", code) for code in image_error_codes()}
        self._reused = self._counter(
            "imageload_images_reused", "Images that took the link of another upload."
        )
        self._requeued = self._counter(
            "imageload_images_requeued",
            "Images that were asked to be loaded again: they had failed, or their link was dead.",
        )
        self._answers_lost = self._counter(
            "imageload_upload_answers_lost",
            "Uploads whose answer was lost: maybe twice on the target.",
        )
        purges = self._counter(
            "imageload_images_purged",
            "Images deleted from the target, or not, by error code.",
            "code",
        )
        self._purged = purges.labels("")
        self._not_purged = {code: purges.labels(code) for code in image_error_codes()}
        callbacks = self._counter(
            "imageload_callbacks", "Jobs whose end was told to their callback, or not.", "result"
        )
        self._called_back = callbacks.labels("told")
        self._not_called_back = callbacks.labels("failed")
        checks = self._counter(
            "imageload_links_checked", "Links that were asked for by checks, by state.", "state"
        )
        self._links_checked = {state: checks.labels(state) for state in get_args(LinkState)}
        documents = self._counter(
            "imageload_documents", "Requests to read documents that ended, by result.", "result"
        )
        self._documents = {each: documents.labels(each) for each in get_args(Ending)}
        tries = self._counter(
            "imageload_retries", "Tries of images after the first, by phase.", "phase"
        )
        self._download_retries = tries.labels("download")
        self._upload_retries = tries.labels("upload")
        self._downloaded_bytes = self._counter(
            "imageload_downloaded_bytes", "Bytes of the images that were downloaded."
        )
        self._uploaded_bytes = self._counter(
            "imageload_uploaded_bytes", "Bytes of the images that the target took."
        )
        requests = self._counter(
            "imageload_imgur_requests", "Requests to the target that ended, by error code.", "code"
        )
        codes = ("", *image_error_codes())
        self._imgur_requests = {code: requests.labels(code) for code in codes}
        seconds = Histogram(
            "imageload_phase_seconds",
            "How long one try of a phase of an image took, by phase.",
            ["phase"],
            buckets=_PHASE_BUCKETS,
            registry=self.registry,
        )
        self._phases = {phase: seconds.labels(phase) for phase in PHASES}
        self._errors_logged = self._counter(
            "imageload_errors_logged", "Lines in the log at the level ERROR or above."
        )
        self._commits = Histogram(
            "imageload_journal_commit_seconds",
            "How long a transaction of the journal took.",
            buckets=_COMMIT_BUCKETS,
            registry=self.registry,
        )

    def __call__(self, job: Job, change: Change) -> None:
        """Count `change`, which was applied to `job`."""
        match change:
            case Uploading():  # as frequent as those that are counted
                pass
            case Downloaded(_, report, attempts):
                self._downloaded_bytes.inc(report.bytes)
                if attempts > 1:
                    self._download_retries.inc(attempts - 1)
            case Uploaded(index, reused=False):
                self._completed.inc()
                uploaded = job.image(index).report
                self._uploaded_bytes.inc(uploaded.bytes if uploaded is not None else 0)
                if change.attempts > 1:
                    self._upload_retries.inc(change.attempts - 1)
            case Uploaded():
                self._completed.inc()
                self._reused.inc()
            case Failed(index, failure, attempts):
                self._failed[failure.code].inc()
                was_downloaded = job.image(index).report is not None
                retries = self._upload_retries if was_downloaded else self._download_retries
                retries.inc(max(0, attempts - 1))
            case Requeued():
                self._requeued.inc()
            case ResponseLost():
                self._answers_lost.inc()
            case Purged():
                self._purged.inc()
            case PurgeFailed(_, failure):
                self._not_purged[failure.code].inc()
            case CallbackEnded(failure=None):
                self._called_back.inc()
            case CallbackEnded():
                self._not_called_back.inc()

    def clock(self, phase: Phase) -> Observe:
        """Returns a function to call with the seconds that a try of `phase` took."""
        return self._phases[phase].observe

    @property
    def commit_clock(self) -> Observe:
        """To be called with the seconds that a transaction of the store took."""
        return self._commits.observe

    def target_request_ended(self, error: BaseException | None) -> None:
        """Count a request to the target, which has ended well or with `error`."""
        if error is None or isinstance(error, ImageError):
            self._imgur_requests[error.code if error is not None else ""].inc()

    def link_checked(self, state: LinkState) -> None:
        """Count a link that a check found in this state."""
        self._links_checked[state].inc()

    def document_ended(self, ending: Ending) -> None:
        """Count a request to read or to write documents by its end."""
        self._documents[ending].inc()

    def error_logged(self) -> None:
        """Count a log line of the level ERROR or above."""
        self._errors_logged.inc()

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)
