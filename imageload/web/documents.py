"""Whole documents, posted and sent back with links in place of URLs.

Documents are read in child processes; other work that depends on their length is done in threads.
"""

from __future__ import annotations

import dataclasses
import hashlib

import msgspec
from msgspec.structs import replace

from imageload.documents.kinds import KINDS
from imageload.documents.original import Original, decode_original
from imageload.errors import InvalidURL, Refused
from imageload.fetch.guard import check_url
from imageload.job import Job, Snapshot
from imageload.registry import Order
from imageload.schemas import DocumentsAcceptedJson
from imageload.web.accept import AcceptHandler
from imageload.web.base import BaseHandler, tag_of_job
from imageload.web.intake import orders_of, read_options
from imageload.web.originals import cleaned_name, disposition, read_originals

_TEXTS = ("album", "title", "description", "callback")


class DocumentsHandler(AcceptHandler):
    """POST /v1/documents: documents -> 202 `{"jobId": [id, ...], "kinds": [kind, ...]}`."""

    async def post(self) -> None:
        """Accept one job for each document, or none; with `dry_run=true` only show its images."""
        is_dry = self.flag("dry_run", default=False)
        options = {name: self.query(name) for name in _TEXTS}
        options = {name: value for name, value in options.items() if value is not None}
        request = read_options(**options, dedupe=self.flag("dedupe", default=True))
        finding = self._base(), self.query("column") or "", self.target.link_base
        self._check_length()

        def read() -> tuple[list[Original], list[str]]:
            content_type = self.request.headers.get("Content-Type", "")
            return read_originals(bytes(self.body), content_type, *finding)

        originals, skip = await self.use_body(read, "bodies")
        if is_dry:
            preview = self.documents.preview(originals, skip, self.caller)
            self.send_encoded(await self.until_gone(preview))
            return
        max_urls = self.service_settings.max_urls
        search = self.documents.search(originals, skip, max_urls, self.caller)
        found = await self.until_gone(search)
        pairs = zip(originals, found, strict=True)
        typed = [replace(each, content_type=searched.content_type) for each, searched in pairs]

        def orders() -> list[Order]:
            request.urls = [[*each.urls] for each in found]
            triples = zip(orders_of(request, max_urls), typed, found, strict=True)
            return [_with_document(order, each, its.kind) for order, each, its in triples]

        def fingerprint() -> bytes:
            # Without `link_base`: a POST is the same one if images go elsewhere now.
            posted = [msgspec.structs.astuple(each)[:-1] for each in typed]
            asked = self.route, self.request.query, posted, *skip
            return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()

        job_ids = await self.accept(orders, fingerprint, "bodies")
        kinds = [each.kind for each in found]
        response: DocumentsAcceptedJson = {"jobId": job_ids, "kinds": kinds}
        self.send_json(response, 202)

    def _check_length(self) -> None:
        encoding = self.request.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            message = f"The body is encoded as {encoding}. Send the document as it is."
            raise Refused("unsupported-type", message)
        most = self.tuning.max_documents_bytes
        if len(self.body) > most:
            raise Refused("too-large", f"The documents of a request may have {most:,} bytes.")

    def _base(self) -> str:
        base = self.query("base")
        if not base:
            return ""
        try:
            check_url(base)
        except InvalidURL as error:
            raise Refused("bad-request", f"base: {error.message}") from None
        return base


class JobDocumentHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>/document: the job's document with links in place of URLs."""

    async def get(self, job_id: str) -> None:
        """Send the document as it is now; 404 if the job came from none."""
        job = await self.job(job_id)
        # Without a document it is 404, also to a client that has an ETag of the job.
        if job.document is not None and self.is_known(tag_of_job(job.summary())):
            return
        encoded = await self.limits.run_in_thread(lambda: self.store.document(job.job_id), "views")
        if encoded is None:
            message = "This job has no document. POST /v1/documents creates jobs with a document."
            raise Refused("no-document", message)
        work = self.limits.run_in_thread(lambda: _pieces(job, encoded), "views")
        snapshot, original, links, errors = await work
        write = self.documents.write(original, links, errors, self.caller)
        content, kind = await self.until_gone(write)
        counts = snapshot.counts
        pending = counts["queued"] + counts["downloaded"]
        states = f"completed={counts['completed']}, failed={counts['failed']}, pending={pending}"
        name = original.file_name or f"imageload-{job.job_id}.{KINDS[kind].suffixes[0]}"
        self.set_tag(tag_of_job(snapshot))
        self.set_header("X-Images", states)
        self.set_header("Content-Type", original.content_type)
        self.set_header("Content-Disposition", disposition(name))
        # A browser that shows it all the same runs no script of it as one of this service.
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(content)


def _with_document(order: Order, original: Original, kind: str) -> Order:
    name = cleaned_name(original.file_name) or f"document.{KINDS[kind].suffixes[0]}"
    return dataclasses.replace(order, document=original.encoded(), document_name=name)


def _pieces(job: Job, encoded: bytes) -> tuple[Snapshot, Original, dict[str, str], dict[str, str]]:
    """The job, its document, and by URL its links and the reasons of its failures."""
    snapshot, links, errors = job.snapshot(), {}, {}
    for image in snapshot.images:
        if image.link is not None:
            links[image.url] = image.link
        elif image.failure is not None:
            errors[image.url] = image.failure.message
    return snapshot, decode_original(encoded), links, errors
