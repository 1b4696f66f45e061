"""A document as it was posted, and the messages between the service and a worker about it."""

from __future__ import annotations

import zlib

import msgspec


class Original(msgspec.Struct, array_like=True, frozen=True):
    """A document as it was posted, and what its finder is called with.

    Once it is searched, its content type names its kind, also if that was judged. The target's
    links began with `link_base` then; "" for documents of older versions.
    """

    content: bytes
    content_type: str
    file_name: str = ""
    base: str = ""
    column: str = ""
    link_base: str = ""

    def is_link(self, url: str) -> bool:
        """Whether this is a link of the target: nothing needs to be uploaded."""
        return bool(self.link_base) and url.startswith(self.link_base)

    def encoded(self) -> bytes:
        """For the store."""
        return zlib.compress(msgspec.msgpack.encode(self), 1)


# Made once, here: msgspec 0.22 crashes if two threads are the first to decode a Struct.
_decode = msgspec.msgpack.Decoder(Original).decode


def decode_original(encoded: bytes) -> Original:
    """The Original that was encoded."""
    return _decode(zlib.decompress(encoded))


class Search(msgspec.Struct, array_like=True, tag=True):
    """Asks for the image URLs of documents, each of which has to have some: Searched.

    The images of the URLs `skip`, each of which some document has to have, are left out.
    """

    originals: list[Original]
    skip: list[str]
    max_urls: int


class Preview(msgspec.Struct, array_like=True, tag=True):
    """Asks for the places of images in documents: JSON, as the API has it. `skip`: see Search."""

    originals: list[Original]
    skip: list[str]


class Write(msgspec.Struct, array_like=True, tag=True):
    """Asks for a document with `links` in place of URLs; `errors`, by URL too, are for tables."""

    original: Original
    links: dict[str, str]
    errors: dict[str, str]


Work = Search | Preview | Write


class Request(msgspec.Struct, array_like=True):
    """Work for a worker, and the CPU time and the memory in bytes that it may take."""

    work: Work
    seconds: float
    max_memory: int


class Searched(msgspec.Struct, array_like=True):
    """A document's kind, the content type that names it, and its image URLs in order, once each."""

    kind: str
    content_type: str
    urls: list[str]


class Result(msgspec.Struct, array_like=True):
    """A worker's response: `searched` to Search, else `content` and, of Write, the kind.

    If the documents are refused there is a `slug`, a key of errors.REFUSALS, and a message. A
    `bug` is a traceback.
    """

    searched: list[Searched] = []
    content: bytes = b""
    kind: str = ""
    slug: str = ""
    message: str = ""
    bug: str = ""
