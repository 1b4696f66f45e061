"""A client of the HTTP API. Jobs and records are the JSON objects of docs/api.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import requests

from imageload.cli.connection import (
    Away,
    Busy,
    CommandError,
    Connection,
    Misuse,
    UnknownJob,
    Unreachable,
)
from imageload.cli.output import Entry, Record

JOBS = "/v1/images/upload"
DOCUMENTS = "/v1/documents"
LATEST = "latest"
_PAGE = 1_000
_ID_LENGTH, _SHORTEST_PREFIX = 36, 4
_MOST_LISTED = 20_000
"""With more jobs than this, a job is not looked for by a prefix of its id."""


class Body(NamedTuple):
    """The body of a POST: one or more lists of URLs."""

    content: bytes
    content_type: str


class Upload(NamedTuple):
    """A document that is posted: its type is judged by its name and its text, unless it has one."""

    name: str
    content: bytes
    type: str = ""


class Client(Connection):
    """The API of the service at `server`."""

    def __init__(self, server: str, token: str = "", patience: float = 0.0) -> None:
        """Raises Misuse if the server or the token has the wrong form."""
        super().__init__(server, token, patience)
        # The job listed right before the jobs of the last `entries`: where to look next time.
        self._newer: str | None = None

    def submit(self, body: Body) -> list[str]:
        """POST `body`; the ids of the new jobs. Waits while the service is Busy.

        It never posts twice: without a response it raises CommandError.
        """
        headers = {"Content-Type": body.content_type}
        try:
            response = self.patiently(Busy, "POST", JOBS, data=body.content, headers=headers)
        except Unreachable as error:
            hint = "`imageload serve` starts a service; --local needs none."
            if error.sent:
                hint = "The service may have accepted the list: see `imageload jobs`."
            raise CommandError(f"{error} {hint}") from None
        return [str(job_id) for job_id in self.field(response, "jobId", list)]

    def link_base(self) -> str:
        """What the links of new images begin with."""
        return str(self.field(self._get("/v1/quota"), "link_base", str))

    def look(self, uploads: Sequence[Upload], query: Mapping[str, str]) -> list[dict[str, Any]]:
        """The images of each document, and what is ignored in it. Raises Rejected for all."""
        params = {**query, "dry_run": "true"}
        response = self.patiently(Away, "POST", DOCUMENTS, params=params, files=_form(uploads))
        return list(self.field(response, "documents", list))

    def submit_document(
        self, upload: Upload, query: Mapping[str, str], key: str
    ) -> tuple[str, bool]:
        """POST a document: its job, and True if that is the job of an earlier POST with this `key`.

        It is posted again without a response, as the key makes a job only once. Raises Rejected.
        """
        response = self.patiently(
            Away,
            "POST",
            DOCUMENTS,
            params=query,
            files=_form([upload]),
            headers={"Idempotency-Key": key},
        )
        (job_id,) = self.field(response, "jobId", list)
        return str(job_id), "Idempotency-Replayed" in response.headers

    def document(self, job_id: str) -> bytes:
        """The document of a job, with the links that it has by now."""
        return self._get(f"{_path(job_id)}/document").content

    def entries(self, job_ids: Sequence[str]) -> list[Entry]:
        """The jobs with these ids, in this order. From the second call on, one small request."""
        found: dict[str, Entry] = {}
        if self._newer is not None:
            try:
                found = self._listed(job_ids, self._newer)
            except UnknownJob:  # the service has dropped that job
                self._newer = None
        if len(found) < len(job_ids):
            found = self._listed(job_ids, None)
        for job_id in job_ids:
            if job_id not in found:
                raise UnknownJob(f"The service at {self.shown} has no job {job_id}.")
        return [found[job_id] for job_id in job_ids]

    def _listed(self, job_ids: Sequence[str], after: str | None) -> dict[str, Entry]:
        wanted, found = set(job_ids), dict[str, Entry]()
        newer = after
        for entry in self.jobs(after, first=len(wanted)):
            if entry["job_id"] in wanted:
                if not found:
                    self._newer = newer
                found[entry["job_id"]] = entry
                if len(found) == len(wanted):
                    break
            newer = entry["job_id"]
        return found

    def jobs(self, after: str | None = None, *, first: int) -> Iterator[Entry]:
        """Every job after `after`, newest first. `first`: the size of the first page."""
        return self._pages(JOBS, "jobs", after=after, first=first)

    def find_job(self, name: str) -> str:
        """The id of the newest job for `latest`, else of the one job whose id begins with `name`.

        A whole id is returned unchecked. Raises UnknownJob, and Misuse if `name` may mean several.
        """
        if len(name) >= _ID_LENGTH:
            return name
        if name == LATEST:
            newest = next(self.jobs(first=1), None)
            if newest is None:
                raise UnknownJob(f"The service at {self.shown} has no jobs.")
            return str(newest["job_id"])
        if len(name) < _SHORTEST_PREFIX:
            raise Misuse(f"Give {_SHORTEST_PREFIX} or more characters of the job's id: {name}")
        listed = [str(job["job_id"]) for job in islice(self.jobs(first=_PAGE), _MOST_LISTED + 1)]
        if len(listed) > _MOST_LISTED:
            raise Misuse(f"There are more than {_MOST_LISTED:,} jobs: give the whole id.")
        found = [job_id for job_id in listed if job_id.startswith(name)]
        if not found:
            raise UnknownJob(f"The service at {self.shown} has no job {name}.")
        if len(found) > 1:
            raise Misuse(f"{name} may be any of these {len(found):,} jobs: {', '.join(found)}")
        return found[0]

    def records(self, job_id: str, state: str | None = None) -> Iterator[Record]:
        """The job's images, all or those in `state`, in input order."""
        return self._pages(f"{_path(job_id)}/images", "images", state=state)

    def links(self) -> Iterator[str]:
        """Every link of every job, oldest job first."""
        return self._pages("/v1/images", "uploaded")

    def retry(self, job_id: str, *, only: str | None) -> int:
        """Retry the failed images, or the `only` transient ones; their number."""
        response = self._send("POST", f"{_path(job_id)}/retry", params={"only": only})
        return int(self.field(response, "requeued", int))

    def check(self, job_id: str) -> dict[str, Any]:
        """Begin a check of the job's links, or return the one that runs."""
        response = self._send("POST", f"{_path(job_id)}/check")
        self.field(response, "counts", dict)
        return dict(response.json())

    def checked(self, job_id: str) -> dict[str, Any]:
        """The last check of the job's links, with few of these."""
        response = self._get(f"{_path(job_id)}/check", limit=1)
        self.field(response, "counts", dict)
        return dict(response.json())

    def checked_links(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The images whose links the last check did not find alive."""
        return self._pages(f"{_path(job_id)}/check", "links")

    def rehost(self, job_id: str) -> int:
        """Load the images again whose links are dead; their number."""
        response = self._send("POST", f"{_path(job_id)}/rehost")
        return int(self.field(response, "requeued", int))

    def cancel(self, job_id: str, *, purge: bool = False) -> tuple[int, int]:
        """Cancel the job, with `purge` also delete its images: (cancelled, purging)."""
        params = {"purge": "true" if purge else None}
        response = self._send("DELETE", _path(job_id), params=params)
        return self.field(response, "cancelled", int), self.field(response, "purging", int)

    def quota(self) -> dict[str, Any]:
        """The remaining budgets and the current wait."""
        response = self._get("/v1/quota")
        self.field(response, "budgets", list)
        return dict(response.json())

    def _pages(
        self, path: str, name: str, *, after: str | None = None, first: int = _PAGE, **params: Any
    ) -> Iterator[Any]:
        """The entries of the list `name`, page by page."""
        limit = min(first, _PAGE)
        while True:
            response = self._get(path, limit=limit, after=after, **params)
            yield from self.field(response, name, list)
            # Only the key of the link is used: a proxy may have changed the path.
            query = urlsplit(response.links.get("next", {}).get("url", "")).query
            after, limit = next(iter(parse_qs(query).get("after", [])), None), _PAGE
            if after is None:
                return

    def _get(self, path: str, **params: Any) -> requests.Response:
        return self.patiently(Away, "GET", path, params=params)


def _path(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def _form(uploads: Sequence[Upload]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The files of a form. A name that is no UTF-8 is escaped."""
    return [
        (
            "document",
            (
                upload.name.encode("utf-8", "backslashreplace").decode(),
                upload.content,
                upload.type or "application/octet-stream",
            ),
        )
        for upload in uploads
    ]
