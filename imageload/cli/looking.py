"""Documents as `rewrite` shows them to the service, which finds their images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imageload.cli import archive
from imageload.cli.client import Client, Upload
from imageload.cli.connection import Rejected
from imageload.cli.documents import BINARY, TABLES, Document, Source, suffix
from imageload.cli.report import Report

_MOST_LOOKED_AT, _MOST_BYTES = 100, 4 * 2**20
"""Documents of one request that looks at them: the service takes 100, and 8 MiB."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run. `query` are those of a POST.

    `is_one`: one file is named, so `column` is for it whatever its name is. `link_base` is what the
    target's links begin with.
    """

    query: Mapping[str, str]
    base: str
    column: str
    is_one: bool
    output: Path | None
    in_place: bool
    backup: bool
    link_base: str = ""

    def query_of(self, document: Document) -> dict[str, str]:
        """The query arguments of this document's POST."""
        is_table = self.is_one or suffix(document.file_name) in TABLES
        own = {"base": document.base(self.base), "column": self.column if is_table else ""}
        return {**self.query, **{name: value for name, value in own.items() if value}}

    def upload_of(self, document: Document) -> Upload:
        """The document as it is posted."""
        type_ = "text/csv" if "column" in self.query_of(document) else ""
        return Upload(document.file_name, document.content, type_)

    def key(self, *parts: str) -> str:
        """A hash of these and of all options that links depend on."""
        options = [sorted(self.query.items()), self.base, self.column, self.link_base]
        return hashlib.sha256(json.dumps([options, parts]).encode()).hexdigest()


@dataclass
class Work:
    """A file to be rewritten. Its documents with images are in `lines`, by their numbers.

    `lines` are the first ones of each URL, `contents` the SHA-256 of the documents.
    """

    source: Source
    sha256: str
    lines: dict[int, dict[str, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    contents: dict[int, str] = field(default_factory=dict)
    jobs: dict[int, str] = field(default_factory=dict)


class Looking:
    """Looks at documents, many in a request. What the service ignores or refuses is reported."""

    def __init__(self, client: Client, options: Options, report: Report) -> None:
        self._client, self._options, self._report = client, options, report

    def look(self, works: list[Work]) -> None:
        """Find the images of all documents. Files that cannot be read leave `works`."""
        batch: list[tuple[Work, Document]] = []
        for work in list(works):
            try:
                for document in work.source.documents():
                    if document.why == BINARY and not work.source.is_zip and self._options.output:
                        works.remove(work)
                    if not self._is_text(document):
                        continue
                    if batch and not self._fits(batch, document):
                        self._look_at(batch)
                        batch = []
                    batch.append((work, document))
            except (OSError, archive.BadArchive) as error:
                self._report.add_error(work.source.name, error)
                works.remove(work)
        if batch:
            self._look_at(batch)

    def _is_text(self, document: Document) -> bool:
        """Whether the document may have images."""
        self._report.documents += document.why != BINARY
        if document.why == BINARY:
            self._report.left_out.append({"file": document.name, "why": document.why})
        elif document.why:
            self._report.add_refused(document.name, document.why)
        return bool(document.content) and not document.content.isspace()

    def _fits(self, batch: Sequence[tuple[Work, Document]], document: Document) -> bool:
        size = sum(len(each.content) for _, each in batch) + len(document.content)
        query = self._options.query_of
        is_alike = query(batch[0][1]) == query(document)
        return is_alike and len(batch) < _MOST_LOOKED_AT and size <= _MOST_BYTES

    def _look_at(self, batch: Sequence[tuple[Work, Document]]) -> None:
        """Find the images of these. If the service refuses them, find those that it refuses."""
        uploads = [self._options.upload_of(document) for _, document in batch]
        query = self._options.query_of(batch[0][1])
        try:
            found = self._client.look(uploads, query)
        except Rejected as error:
            if len(batch) == 1:
                self._report.add_error(batch[0][1].name, error)
                return
            half = len(batch) // 2
            self._look_at(batch[:half])
            self._look_at(batch[half:])
            return
        for (work, document), each in zip(batch, found, strict=True):
            self._report.add_ignored(document.name, each["ignored"])
            if each["images"]:
                lines: dict[str, int] = {}
                for image in each["images"]:
                    lines.setdefault(image["url"].strip(), image["line"])
                work.lines[document.number] = lines
                work.names[document.number] = document.name
