"""What `rewrite` did: for people by reason, or as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from imageload.cli.output import Entry, Record, count_of, lines_by_reason, print_message


@dataclass
class Report:
    """The sums of a run, and all that stayed as it was.

    `failed` are images that could not be replaced, `refused` documents that could not be read,
    posted or written: the run is not complete. `left_out` are files that are no documents, and
    `ignored` is text that the service does not take for an image.
    """

    documents: int = 0
    done_before: int = 0
    rewritten: int = 0
    images: int = 0
    replaced: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    ignored: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every image was replaced."""
        return not self.failed and not self.refused

    def add_ignored(self, name: str, ignored: list[dict[str, Any]]) -> None:
        """Add what the service ignores in a document."""
        names = ("line", "text", "why")
        self.ignored += [{"file": name, **{key: each[key] for key in names}} for each in ignored]

    def add_refused(self, name: str, why: str) -> None:
        """Add a document that stays as it is."""
        self.refused.append({"file": name, "why": why})

    def add_error(self, name: str, error: Exception) -> None:
        """Add a document that an error kept as it is."""
        reason = error.strerror if isinstance(error, OSError) else None
        self.add_refused(name, f"{reason or error}")

    def add_job(self, name: str, entry: Entry, failed: list[Record], lines: dict[str, int]) -> None:
        """Add the images of a document whose job is finished. `lines` are those of its URLs."""
        self.images += entry["counts"]["total"]
        self.replaced += entry["counts"]["completed"]
        self.rewritten += entry["counts"]["completed"] > 0
        for record in failed:
            error = {key: record["error"][key] for key in ("code", "message")}
            place = {"file": name, "line": lines.get(record["url"]), "url": record["url"]}
            self.failed.append({**place, **error})

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def print(self) -> None:
        """Print what stayed as it was, by reason, and the sum last."""
        ignored = ((("", each["why"]), f"{_place(each)} {each['text']}") for each in self.ignored)
        left_out = ((("", each["why"]), each["file"]) for each in self.left_out)
        refused = ((("", each["why"]), each["file"]) for each in self.refused)
        failed = (
            ((each["code"], each["message"]), f"{_place(each)} {each['url']}")
            for each in self.failed
        )
        for lines in (
            lines_by_reason("ignored", "places", ignored),
            lines_by_reason("left out", "files", left_out),
            lines_by_reason("not rewritten", "documents", refused),
            lines_by_reason("failed", "images", failed),
        ):
            for line in lines:
                print_message(line)
        print_message(str(self))

    def __str__(self) -> str:
        ends = [
            f"{self.rewritten:,} of {count_of(self.documents, 'document')} rewritten",
            f"{self.replaced:,} of {count_of(self.images, 'image')} replaced",
        ]
        if not self.images:
            ends = [f"{count_of(self.documents, 'document')}, no image to replace"]
        if self.done_before:
            ends.append(f"{count_of(self.done_before, 'document')} done before")
        if self.failed:
            ends.append(f"{count_of(len(self.failed), 'image')} failed")
        return ", ".join(ends)


def _place(each: dict[str, Any]) -> str:
    return f"{each['file']}:{each['line']}" if each["line"] else str(each["file"])
