"""The numbers that are not options: the defaults suit operators, tests set others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """Each number with its default."""

    client_seconds: float = 10.0
    """How long a client may take for its headers or its body; then 408."""
    client_speed_bytes: int = 1_000
    """Bytes that give a client one second more."""
    idle_seconds: float = 75.0
    """How long a connection may be idle between two requests, or a response unread."""
    max_streams: int = 2_000
    """Event streams and held responses at the same time; at most half of the connections."""
    keepalive_seconds: float = 15.0
    """The interval of comments in an idle event stream."""
    max_wait_seconds: float = 50.0
    """The longest `Prefer: wait`; many proxies give up after 60 seconds."""
    max_lists: int = 1_000
    """Lists, and so jobs, in one request."""
    max_bodies_bytes: int = 256 * 2**20
    """Total size of the request bodies held in memory; above it 503. Two at a time are decoded,
    which takes up to 250 MB more for each."""
    max_documents_bytes: int = 8 * 2**20
    """Total size of the documents of one request."""
    document_seconds: float = 5.0
    """The CPU time for each MiB of a request's documents, of which there are at most two at work.
    Ordinary ones take up to 1."""
    document_bytes: int = 2**29
    """The memory of each process that reads documents."""
    max_waiting_jobs: int = 10_000
    """Jobs that wait for a thread; above it a POST is answered 429."""
    lease_seconds: float = 30.0
    """How long a client id belongs to a node that does not renew it."""
    park_seconds: float = 30.0
    """A node lets slices go that would wait longer for Imgur."""
    keep_hours: float = 168.0
    """How long after its creation a finished job stays in memory."""
    job_window: int | None = None
    """Images of one job in flight; None: as many as there are downloads and uploads."""
    retry_seconds: float = 0.5
    """The wait before the second try; it doubles."""
    retry_cap_seconds: float = 20.0
    """The longest wait between two tries."""
    callback_seconds: float = 10.0
    """The deadline of one request to a callback."""
    connect_seconds: float = 5.0
    """The deadline of one connect, name lookup and TLS included."""
    low_speed_bytes: int = 1_000
    """Bytes a second: a response slower than this over `low_speed_seconds` is ended; the time
    before its first byte does not count."""
    low_speed_seconds: float = 15.0
    max_header_bytes: int = 64 * 2**10
    """The headers of one response."""
    max_redirects: int = 5
    max_pixels: int = 100_000_000
    """Width x height by the image's header."""
    origin_ports: tuple[int, ...] = (80, 443)
    """The ports below 1024 that may be fetched from."""
    allow_downgrade: bool = False
    """A redirect may lead from https to http."""
    host_failures: int = 5
    """Failures in a row without a response, after which a host is not contacted for a while."""
    host_rest_seconds: float = 1.0
    """The first rest of a failing origin, before one download probes it; it doubles up to 3."""
    host_give_up_seconds: float = 25.0
    """An origin that has failed for so long ends its images."""
    host_wait_seconds: float = 300.0
    """The longest Retry-After of a host that is followed."""
    check_slots: int = 16
    """Links that are asked for at once by the checks of all jobs."""
    ca_file: str = ""
    """A bundle of trusted certificates; empty: SSL_CERT_FILE, or certifi's."""
    converters: int = 2
    """Processes that convert."""
    convert_seconds: float = 30.0
    """The deadline of one conversion."""
    quota_hour_seconds: float = 3_600.0
    """The period of Imgur's hourly budgets if its responses do not name it."""
    quota_day_seconds: float = 86_400.0
    """The period of its daily budgets if its responses do not name it."""
    quota_wait_seconds: float = 60.0
    """The wait after a 429 without details; it doubles, up to an hour."""
    bucket_wait_seconds: float = 1.0
    """The wait after a bucket has refused a request; it doubles, up to a minute."""
    blocked_wait_seconds: float = 600.0
    """The wait after Imgur has blocked us; it doubles, up to an hour."""
