"""Builds the target that the settings name: Imgur with its clients, or a bucket."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imageload import saved
from imageload.convert.pool import NEEDS
from imageload.observers.metrics import Metrics
from imageload.options import location
from imageload.pipeline import AlbumLinks
from imageload.service.rules import retry_rule
from imageload.settings import Settings
from imageload.store import Store
from imageload.targets import Takes, Target
from imageload.targets.imgur.albums import album_links
from imageload.targets.imgur.uploader import Imgur
from imageload.targets.limits.breaker import Terms
from imageload.targets.limits.quota import Quotas
from imageload.targets.s3.bucket import Bucket, Keys
from imageload.targets.s3.target import S3
from imageload.targets.uploads import Uploads
from imageload.transport.curl import Transport
from imageload.tuning import Tuning
from imgurapi import ImgurAPI

if TYPE_CHECKING:
    from imageload.cluster.lease import LeaseRules

_S3_LONGEST_WAIT_SECONDS = 60.0


def make_target(
    settings: Settings,
    tuning: Tuning,
    transports: Sequence[Transport],
    store: Store,
    metrics: Metrics,
) -> Target:
    """The target; raises ValueError if an option is wrong."""
    if settings.is_s3:
        plain, signed = transports
        return _s3(settings, tuning, plain, signed, metrics)
    (plain,) = transports
    return _imgur(settings, tuning, plain, store, metrics)


def _s3(
    settings: Settings, tuning: Tuning, plain: Transport, signed: Transport, metrics: Metrics
) -> S3:
    """The bucket."""
    terms = Terms(
        unhinted_wait=tuning.bucket_wait_seconds,
        longest_wait=_S3_LONGEST_WAIT_SECONDS,
        outage_seconds=settings.outage_seconds,
        lease_seconds=tuning.lease_seconds,
        throttled="throttled",
        place="The bucket's service",
    )
    quotas = Quotas(1, terms, on_end=metrics.target_request_ended)
    return S3(
        Bucket(location(settings), keys(settings), signed, plain, settings.upload_seconds),
        _uploads(settings, tuning, signed, quotas, metrics),
    )


def _uploads(
    settings: Settings, tuning: Tuning, transport: Transport, quotas: Quotas, metrics: Metrics
) -> Uploads:
    return Uploads(
        quotas,
        settings.uploads,
        retry=retry_rule(settings, tuning).wait,
        clock=metrics.clock("upload"),
        on_resize=lambda slots: transport.keep_connections(2 * slots),
    )


def keys(settings: Settings) -> Keys:
    """The keys of the bucket."""
    return Keys(
        key_id=settings.aws_access_key_id,
        secret=settings.aws_secret_access_key,
        token=settings.aws_session_token,
    )


def _imgur(
    settings: Settings, tuning: Tuning, transport: Transport, store: Store, metrics: Metrics
) -> Imgur:
    """Imgur with a client for each client id."""
    ids = _clients(settings)
    terms = Terms(
        hour=tuning.quota_hour_seconds,
        day=tuning.quota_day_seconds,
        unhinted_wait=tuning.quota_wait_seconds,
        blocked_wait=tuning.blocked_wait_seconds,
        outage_seconds=settings.outage_seconds,
        lease_seconds=tuning.lease_seconds,
    )
    quotas = Quotas(len(ids), terms, on_end=metrics.target_request_ended)
    given = settings.imgur_refresh_token
    clients = []
    for (client_id, hour, day), quota in zip(ids, quotas.each, strict=True):
        quota.assume_limits(hour, day)
        client = ImgurAPI(
            client_id,
            settings.imgur_client_secret,
            given or None,
            transport=transport,
            base_url=settings.imgur_base_url or None,
            rapidapi_key=settings.imgur_rapidapi_key or None,
            link_base=settings.imgur_link_base,
            seconds=settings.upload_seconds,
            quota=quota,
            tokens=saved.RefreshTokens(store, given),
        )
        clients.append(client)
    return Imgur(
        clients,
        _uploads(settings, tuning, transport, quotas, metrics),
        anonymous=settings.imgur_anonymous,
        takes=Takes(tuple(NEEDS), settings.imgur_max_bytes),
        link_base=settings.imgur_link_base,
    )


def budgets_key(settings: Settings) -> str:
    """Names the Imgur, the account and the client ids, with limits, that saved budgets belong to.

    The sandbox with Imgur's limits and the one without them are two.
    """
    return json.dumps([target_name(settings), settings.clients])


def album_links_of(settings: Settings, target: Target) -> AlbumLinks | None:
    """How the pipeline asks for an album; None: the target cannot tell of albums of others."""
    albums = target.albums
    if albums is None or settings.is_sandbox:
        return None
    return lambda job_id, name: album_links(functools.partial(albums.request, job_id), name)


def target_name(settings: Settings) -> str:
    """Names the Imgur and the account, or the bucket."""
    if settings.is_s3:
        return json.dumps([settings.s3_endpoint, settings.target])
    account = "" if settings.imgur_anonymous else settings.imgur_refresh_token
    is_limited = settings.is_sandbox and settings.sandbox_limits
    return json.dumps([settings.imgur_base_url, account, is_limited])


def _clients(settings: Settings) -> list[tuple[str, int | None, int | None]]:
    """The client ids that are used; an account has only the first."""
    return settings.clients if settings.imgur_anonymous else settings.clients[:1]


def lease_rules(settings: Settings, tuning: Tuning) -> LeaseRules:
    """Which client ids nodes lease, and for how long; needs the extra `cluster`."""
    from imageload.cluster.lease import LeaseRules

    return LeaseRules(
        target=target_name(settings),
        clients=[""] if settings.is_s3 else [client_id for client_id, _, _ in _clients(settings)],
        egress=settings.egress or socket.gethostname(),
        seconds=tuning.lease_seconds,
    )
