"""The process that searches and writes documents: `python -m imageload.documents.worker`.

Only this process imports the parsers. `original` has the messages.
"""

from __future__ import annotations

import gc
import signal
import traceback
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from imageload.documents.document import Document, read_document
from imageload.documents.found import Finds
from imageload.documents.kinds import KINDS, UNSAID
from imageload.documents.original import (
    Original,
    Preview,
    Request,
    Result,
    Search,
    Searched,
    Write,
)
from imageload.errors import Refused
from imageload.processes.child import limit_memory, serve

if TYPE_CHECKING:
    from imageload.schemas import DocumentJson, DocumentsJson
_decode = msgspec.msgpack.Decoder(Request).decode
_SKIPPED = "Left out: the request says skip."
_IS_LINK = "A link of the target: this image is there already."


def main() -> None:
    """Answer requests until the standard input ends."""
    gc.disable()  # it would go through all tokens again and again; `serve` collects at the end
    serve(_answer)


def _answer(encoded: bytes) -> bytes:
    request = _decode(encoded)
    limit_memory(request.max_memory)
    # SIGPROF ends this process at that CPU time: no parser can hold it up.
    signal.setitimer(signal.ITIMER_PROF, request.seconds)
    response = msgspec.msgpack.encode(_result(request))
    signal.setitimer(signal.ITIMER_PROF, 0)
    return response


def _result(request: Request) -> Result:
    try:
        return _done(request)
    except Refused as error:
        return Result(slug=error.slug, message=str(error))
    except MemoryError:
        message = "Reading it takes more memory than a document may take. Send less at once."
        return Result(slug="too-complex", message=message)
    except Exception:
        return Result(bug=traceback.format_exc()[-8_000:])


def _done(request: Request) -> Result:
    match request.work:
        case Search(originals, skip, max_urls):
            return Result([_searched(each, max_urls) for each in _found(originals, skip)])
        case Preview(originals, skip):
            found = _found(originals, skip)
            documents: DocumentsJson = {"documents": [_preview(each) for each in found]}
            return Result(content=msgspec.json.encode(documents))
        case Write():
            return _written(request.work)


def _read(original: Original, where: str = "") -> tuple[Document, Finds]:
    """The document and its images; raises Refused (bad-request) if a column is named in vain."""
    document = read_document(original.content, original.content_type, original.file_name)
    if original.column and document.kind != "csv":
        message = f"column is for tables, and this was read as {document.kind}."
        raise Refused("bad-request", f"{where}{message}")
    return document, document.find(original.base, original.column, original.link_base)


class _Found(NamedTuple):
    """A document of a request, with the images that are to be uploaded.

    `where` says in messages which one it is, if there are several.
    """

    original: Original
    document: Document
    finds: Finds
    where: str


def _found(originals: Sequence[Original], skip: Sequence[str]) -> list[_Found]:
    """The documents and their images; raises Refused (bad-request)."""
    found = []
    unknown = {*skip}
    for number, original in enumerate(originals, 1):
        where = f"Document {number}: " if originals[1:] else ""
        document, finds = _read(original, where)
        unknown -= {each.url.strip() for each in finds.found}
        found.append(_Found(original, document, _new_images(original, finds, {*skip}), where))
    for url in sorted(unknown):
        message = f"skip: {url[:500]} is no image of the documents. dry_run=true shows their URLs."
        raise Refused("bad-request", message)
    return found


def _new_images(original: Original, finds: Finds, skip: Set[str]) -> Finds:
    """The images of a document; links of the target and those to skip are ignored."""
    new = Finds()
    new.ignored.extend(finds.ignored)
    for each in finds.found:
        if original.is_link(each.url):
            new.ignore(each.as_written, each.start, _IS_LINK)
        elif each.url.strip() in skip:
            new.ignore(each.url, each.start, _SKIPPED)
        else:
            new.found.append(each)
    return new.in_order()


def _searched(found: _Found, max_urls: int) -> Searched:
    """What is found; raises Refused: no-images or too-large."""
    original, document, finds, where = found
    urls = list(dict.fromkeys(each.url for each in finds.found))
    if not urls:
        raise Refused("no-images", f"{where}{_no_images(document, finds)}")
    if len(urls) > max_urls:
        message = f"This has {len(urls):,} images; a job may have {max_urls:,}. Split the document."
        raise Refused("too-large", f"{where}{message}")
    content_type = original.content_type
    if content_type.partition(";")[0].strip().lower() in UNSAID:
        content_type = KINDS[document.kind].types[0]
        if document.encoding == "utf-8":
            content_type += "; charset=utf-8"
    return Searched(document.kind, content_type, urls)


def _no_images(document: Document, finds: Finds) -> str:
    message = f"There is no image in it. It was read as {document.kind}, where the service looks "
    message += f"for {KINDS[document.kind].sought}."
    if finds.ignored:
        first = finds.ignored[0]
        count = f"{len(finds.ignored):,} ignored, the first" if finds.ignored[1:] else "Ignored"
        message += f" {count} in line {document.line(first.start):,}: {first.why}"
    return message


def _preview(found: _Found) -> DocumentJson:
    _, document, finds, _ = found
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


def _written(work: Write) -> Result:
    """The document with links; the service has the URLs without the blanks around them."""
    document, finds = _read(work.original)
    links, errors = {}, {}
    for found in finds.found:
        url = found.url.strip()
        if work.original.is_link(found.url):
            links[found.url] = found.url
        elif url in work.links:
            links[found.url] = work.links[url]
        elif url in work.errors:
            errors[found.url] = work.errors[url]
    return Result(content=document.replaced(finds, links, errors), kind=document.kind)


if __name__ == "__main__":
    main()
