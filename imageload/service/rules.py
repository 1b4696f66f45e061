"""The rules of each part, as the settings have them."""

from __future__ import annotations

from imageload.convert.pool import NEEDS, ConversionRules
from imageload.documents.pool import DocumentRules
from imageload.fetch.download import DownloadBounds
from imageload.fetch.hosts import HostRules
from imageload.jobs import WindowRules
from imageload.loader import Capacity
from imageload.observers.webhooks import WebhookRules
from imageload.retention import Retention
from imageload.retry import RetryRule
from imageload.settings import Settings
from imageload.targets import Target
from imageload.tuning import Tuning

_CALLBACK_WAITS = (2, 20, 120)  # times `retry_seconds`


def conversion_rules(settings: Settings, tuning: Tuning, target: Target) -> ConversionRules:
    """Converts and strips as the target needs it, and more if the options say so."""
    takes = target.takes
    return ConversionRules(
        needs=tuple(NEEDS) if settings.convert else takes.refused,
        convert=settings.convert is not False,
        shrink=settings.shrink,
        strip=settings.strip == "true" or (settings.strip == "auto" and not target.strips_metadata),
        must_strip=settings.strip == "true",
        max_bytes=settings.imgur_max_bytes if settings.shrink else takes.max_bytes,
        max_pixels=tuning.max_pixels,
        max_memory=settings.convert_bytes,
        seconds=tuning.convert_seconds,
    )


def document_rules(tuning: Tuning) -> DocumentRules:
    """What a search of documents may take."""
    return DocumentRules(
        seconds=tuning.document_seconds,
        max_memory=tuning.document_bytes,
    )


def download_bounds(settings: Settings, tuning: Tuning) -> DownloadBounds:
    """What a download may take."""
    return DownloadBounds(
        seconds=settings.download_seconds,
        max_bytes=settings.max_bytes,
        max_pixels=tuning.max_pixels,
        max_redirects=tuning.max_redirects,
        downgrade=tuning.allow_downgrade,
        rejected=frozenset(digest.lower() for digest in settings.reject_sha256),
    )


def host_rules(settings: Settings, tuning: Tuning) -> HostRules:
    """How an origin is spared."""
    return HostRules(
        per_host=settings.per_host,
        failures=tuning.host_failures,
        rest_seconds=tuning.host_rest_seconds,
        give_up_seconds=tuning.host_give_up_seconds,
        max_pause_seconds=tuning.host_wait_seconds,
    )


def retry_rule(settings: Settings, tuning: Tuning) -> RetryRule:
    """Which errors are retried, and after which waits."""
    return RetryRule(
        max_tries=settings.max_tries,
        seconds=tuning.retry_seconds,
        cap_seconds=tuning.retry_cap_seconds,
        retry_lost=settings.retry_lost,
    )


def webhook_rules(settings: Settings, tuning: Tuning) -> WebhookRules:
    """How callbacks are sent."""
    return WebhookRules(
        seconds=tuning.callback_seconds,
        waits=[tuning.retry_seconds * times for times in _CALLBACK_WAITS],
        secret=settings.callback_secret,
    )


def window_rules(settings: Settings, tuning: Tuning) -> WindowRules:
    """How many images of a job are in flight."""
    window = tuning.job_window or settings.downloads + settings.uploads
    return WindowRules(places=window, downloads=settings.downloads)


def capacity(settings: Settings, tuning: Tuning) -> Capacity:
    """How many jobs are at work, and wait."""
    return Capacity(
        max_active_jobs=settings.max_active_jobs,
        max_waiting_jobs=tuning.max_waiting_jobs,
    )


def retention(settings: Settings, tuning: Tuning) -> Retention:
    """How many finished jobs stay in memory, and for how long."""
    return Retention(
        keep_jobs=settings.keep_jobs,
        keep_hours=tuning.keep_hours,
        jobs_bytes=settings.jobs_bytes,
    )
