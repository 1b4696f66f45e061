"""Documents of the command line: files, those in folders, the entries of zip files, and stdin.

A `Source` is a file that is written as a whole: a document, or a zip file of documents.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin

from imageload.cli import archive
from imageload.cli.connection import Misuse
from imageload.cli.output import print_message

TABLES = frozenset(["csv", "tsv", "tab"])
SUFFIXES = TABLES | frozenset(
    [
        "md",
        "markdown",
        "mdown",
        "mkd",
        "mdx",
        "qmd",
        "rmd",
        "html",
        "htm",
        "xhtml",
        "xml",
        "rss",
        "atom",
        "svg",
        "opml",
        "json",
        "jsonl",
        "ndjson",
        "json5",
        "geojson",
        "ipynb",
        "har",
        "canvas",
        "adoc",
        "asciidoc",
        "asc",
        "wiki",
        "mediawiki",
        "dokuwiki",
        "textile",
        "jira",
        "confluence",
        "org",
        "bbcode",
        "urls",
        "rst",
        "txt",
    ]
)
"""Files of folders and zip files with these suffixes are documents."""

MOST_BYTES = 32 * 2**20
"""A larger file is not read: no service takes it."""
BINARY = "It is binary."
_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_SAMPLE = 8_000  # bytes in which a null byte makes a file binary, as for git


@dataclass(frozen=True)
class Document:
    """A document of a source: its `number` is its place in a zip file, else 0.

    `name` is how users know it, `place` where it is below its folder; "" for a file by itself.
    `why` it is not posted is a sentence; "" if it is. Then there is no content.
    """

    number: int
    name: str
    file_name: str
    place: str
    content: bytes = b""
    why: str = ""

    def base(self, base: str) -> str:
        """Its own URL, if `base` is that of its folder; `base` itself for a file by itself."""
        if not base or not self.place:
            return base
        folder = PurePosixPath(self.place).parent.as_posix()
        of_folder = base if base.endswith("/") else f"{base}/"
        return of_folder if folder == "." else urljoin(of_folder, quote(folder) + "/")


@dataclass(frozen=True)
class Source:
    """A file with documents; without a `path` it is stdin. `place` is where it goes below --output.

    `of_folder`: it was found in a folder that the user has named.
    """

    name: str
    path: Path | None
    place: PurePosixPath
    of_folder: bool = False

    @property
    def is_zip(self) -> bool:
        """Whether it is a zip file."""
        return self.path is not None and suffix(self.path.name) == "zip"

    def documents(self, wanted: frozenset[int] | None = None) -> Iterator[Document]:
        """Its documents, or the `wanted` ones. Raises OSError and BadArchive."""
        if self.is_zip:
            yield from self._entries(wanted)
        elif self.path is None:
            yield _document(0, "stdin", "stdin", "", self.stdin)
        else:
            place = self.place.as_posix() if self.of_folder else ""
            is_large = self.path.stat().st_size > MOST_BYTES
            content = None if is_large else self.path.read_bytes()
            yield _document(0, self.name, self.path.name, place, content)

    @cached_property
    def stdin(self) -> bytes:
        """All of stdin."""
        if sys.stdin.isatty():
            print_message("Type the document. Ctrl-D ends it.")
        return sys.stdin.buffer.read()

    def _entries(self, wanted: frozenset[int] | None) -> Iterator[Document]:
        assert self.path is not None
        found = {
            number: entry
            for number, entry in enumerate(archive.entries(self.path))
            if wanted is None or number in wanted
            if not entry.is_dir() and _is_document(PurePosixPath(entry.filename))
        }
        for number, content in archive.read(self.path, found, MOST_BYTES):
            place = found[number].filename
            name = PurePosixPath(place).name
            yield _document(number, f"{self.name}/{place}", name, place, content)


def _document(
    number: int, name: str, file_name: str, place: str, content: bytes | None
) -> Document:
    """A document; None: its content is too large to be read."""
    if content is None:
        why = f"It has more than {MOST_BYTES:,} bytes."
    else:
        why = BINARY if is_binary(content) else ""
    return Document(number, name, file_name, place, b"" if why else content or b"", why)


def suffix(name: str) -> str:
    """The suffix of a file's name, in lower case."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_binary(content: bytes) -> bool:
    """Whether this is no text, as git judges it; UTF-16 and UTF-32 with a byte order mark are."""
    return b"\0" in content[:_SAMPLE] and not content.startswith(_BOMS)


def sources_of(names: Sequence[str], output: Path | None) -> list[Source]:
    """The sources that the user names, each once, and none of those in `output`. Raises Misuse."""
    found: dict[Path | None, Source] = {}
    for name in names:
        for source in _sources(name, output):
            found.setdefault(source.path and source.path.resolve(), source)
    return list(found.values())


def _sources(name: str, output: Path | None) -> Iterator[Source]:
    if name == "-":
        yield Source("stdin", None, PurePosixPath("stdin"))
        return
    path = Path(name)
    try:
        if path.is_dir():
            yield from _of_folder(path, output)
            return
        path.stat()
        if not path.is_file():
            raise Misuse(f"{name} is neither a file nor a folder.")
    except FileNotFoundError:
        raise Misuse(f"There is no file {name}.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a file name"
        raise Misuse(f"{name} cannot be read: {reason}.") from None
    yield Source(name, path, PurePosixPath(path.name))


def _of_folder(folder: Path, output: Path | None) -> Iterator[Source]:
    """The documents of a folder, sorted. Links, and hidden files and folders, are left out."""
    left_out = output and output.resolve()

    def failed(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, onerror=failed):
        at = Path(here)
        folders[:] = sorted(
            each for each in folders if each[0] != "." and (at / each).resolve() != left_out
        )
        for each in sorted(files):
            path = at / each
            if _is_document(PurePosixPath(each)) and path.is_file() and not path.is_symlink():
                place = PurePosixPath(path.relative_to(folder).as_posix())
                yield Source(str(path), path, place, of_folder=True)


def _is_document(path: PurePosixPath) -> bool:
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return suffix(path.name) in SUFFIXES and not is_hidden
