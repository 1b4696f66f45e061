"""Documents in whole, and whole again with links: POST /v1/documents, GET …/document.

Everything that depends on a document's length runs in the threads `documents`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from imageload.documents import Document, Finds
from imageload.errors import InvalidURL, Refused
from imageload.fetch.guard import check_url
from imageload.job import Job, Snapshot
from imageload.loader import Order
from imageload.schemas import DocumentJson, DocumentsAcceptedJson, DocumentsJson
from imageload.web.accept import AcceptHandler
from imageload.web.base import BaseHandler, tag_of_job
from imageload.web.intake import orders_of, read_options
from imageload.web.originals import (
    Original,
    decode_original,
    disposition,
    read_originals,
    suffix_of,
)

_POOL: Final = "documents"
_TEXTS = ("album", "title", "description", "callback")
_IS_LINK = "A link of the target: this image is there already."
_BARE = "URLs that end like an image (.png, .jpg, ...)"
_SOUGHT = {
    "markdown": f"![](https://...), <img> and {_BARE}",
    "html": f"<img>, srcset, styles, feeds' enclosures and {_BARE}",
    "bbcode": f"[img]https://...[/img] and {_BARE}",
    "csv": f"a column of image URLs, {_BARE}; name the column with ?column=NAME",
    "json": f"strings that are {_BARE}, or whose key names an image",
    "org": f"[[https://...]] and {_BARE}",
    "asciidoc": f"image::https://...[] and {_BARE}",
    "wiki": f"{{{{https://...}}}}, !https://...! and {_BARE}",
    "list": "http and https URLs",
    "text": _BARE,
}
"""What the finder of each kind looks for, for people."""


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

        def read() -> list[tuple[Original, Document]]:
            content_type = self.request.headers.get("Content-Type", "")
            return read_originals(bytes(self.body), content_type, *finding)

        originals = await self.use_body(read, _POOL)
        if is_dry:
            preview = await self.use_body(lambda: _preview(originals), _POOL)
            self.send_encoded(preview)
            return

        def orders() -> list[Order]:
            request.urls = [[*_urls(originals, n)] for n, _ in enumerate(originals)]
            made = orders_of(request, self.service_settings.max_urls)
            pairs = zip(made, originals, strict=True)
            return [replace(order, document=each.encoded()) for order, (each, _) in pairs]

        def fingerprint() -> bytes:
            # Without `link_base`: a POST is the same one if images go elsewhere now.
            posted = [msgspec.structs.astuple(each)[:-1] for each, _ in originals]
            asked = self.route, self.request.query, posted
            return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()

        job_ids = await self.accept(orders, fingerprint, _POOL)
        kinds = [document.kind for _, document in originals]
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
        encoded = await self.limits.run_in_thread(lambda: self.store.document(job.job_id), "views")
        if encoded is None:
            message = "This job came from no document: POST /v1/documents makes jobs that do."
            raise Refused("no-document", message)
        if self.is_known(tag_of_job(job.summary())):
            return
        work = self.limits.run_in_thread(lambda: _replaced(job, encoded), _POOL)
        snapshot, original, kind, content = await work
        counts = snapshot.counts
        pending = counts["queued"] + counts["downloaded"]
        states = f"completed={counts['completed']}, failed={counts['failed']}, pending={pending}"
        name = original.file_name or f"imageload-{job.job_id}.{suffix_of(kind)}"
        self.set_tag(tag_of_job(snapshot))
        self.set_header("X-Images", states)
        self.set_header("Content-Type", original.content_type)
        self.set_header("Content-Disposition", disposition(name))
        # A browser that shows it all the same runs no script of it as one of this service.
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(content)


def _replaced(job: Job, encoded: bytes) -> tuple[Snapshot, Original, str, bytes]:
    """The job, its document, the document's kind, and its bytes with links."""
    original, snapshot = decode_original(encoded), job.snapshot()
    document = original.read()
    finds = original.find(document)
    images = {image.url: image for image in snapshot.images}
    links, errors = {}, {}
    for found in finds.found:
        image = images.get(found.url.strip())  # as it was posted
        if original.is_link(found.url):
            links[found.url] = found.url
        elif image is not None and image.link is not None:
            links[found.url] = image.link
        elif image is not None and image.failure is not None:
            errors[found.url] = image.failure.message
    return snapshot, original, document.kind, document.replaced(finds, links, errors)


def _preview(originals: Sequence[tuple[Original, Document]]) -> bytes:
    """The images of documents, as JSON."""
    response: DocumentsJson = {
        "documents": [
            _document_json(document, _new_images(original, document))
            for original, document in originals
        ]
    }
    return msgspec.json.encode(response)


def _document_json(document: Document, finds: Finds) -> DocumentJson:
    return {
        "kind": document.kind,
        "images": [
            {"url": each.url, "line": document.line(each.start), "as_written": each.as_written}
            for each in finds.found
        ],
        "ignored": [
            {"text": each.text, "line": document.line(each.start), "why": each.why}
            for each in finds.ignored
        ],
    }


def _new_images(original: Original, document: Document) -> Finds:
    """The images of a document; those that are links of the target already are ignored."""
    finds, new = original.find(document), Finds()
    new.ignored.extend(finds.ignored)
    for each in finds.found:
        if original.is_link(each.url):
            new.ignore(each.as_written, each.start, _IS_LINK)
        else:
            new.found.append(each)
    return new.in_order()


def _urls(originals: Sequence[tuple[Original, Document]], index: int) -> list[str]:
    """The image URLs of a document; raises Refused (no-images)."""
    original, document = originals[index]
    finds = _new_images(original, document)
    urls = list(dict.fromkeys(each.url for each in finds.found))
    if urls:
        return urls
    where = f"Document {index + 1}: " if len(originals) > 1 else ""
    message = f"There is no image in it. It was read as {document.kind}, where the service looks "
    message += f"for {_SOUGHT[document.kind]}."
    if finds.ignored:
        first = finds.ignored[0]
        count = f"{len(finds.ignored):,} ignored, the first" if finds.ignored[1:] else "Ignored"
        message += f" {count} in line {document.line(first.start):,}: {first.why}"
    raise Refused("no-images", f"{where}{message}")
