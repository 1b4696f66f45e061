"""Tells an image's type and its size in pixels from its first bytes.

    first 4 kB ──> sniff ──> "image/png" ──> the format's size reader ──> ImageHeader
                     └─ None ──> describe ──> "an HTML page" (for the error message)

It never decodes a pixel, never trusts a file name or a Content-Type, and makes a bounded number of
small reads for any input. Only a decoder could tell whether the image is complete.

The size readers are our own because they run for every image (docs/decisions/image-readers.md).
CPU time on one 2.8 GHz core, medians over tests/images: 13 µs (GIF) to 60 (HEIC), 31 for a JPEG;
Pillow 13's lazy open takes 34 (WebP) to 227 (TIFF), 65 for a JPEG.
"""

import codecs
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HEAD_BYTES: Final = 4096
"""The number of first bytes that sniff, describe and is_other_image use; fewer may be enough.

32 bytes are enough for most types. The rest is for an APNG with a colour profile before its acTL
chunk (beyond 4 kB it counts as a PNG, which it also is), and for an HTML page that begins with
comments.
"""

_MAX_STEPS: Final = 4096  # JPEG segments, boxes, items, TIFF tags; a 200 Mpx HEIC has 819 items
# Bytes of an ISO-BMFF box that contains boxes; the meta box of that HEIC has 39 k.
_MAX_META: Final = 256 * 1024

_Read = Callable[[int, int], bytes]  # (offset, count) -> those bytes, fewer at the end of the file
_Size = tuple[int, ...]  # width, height


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """An image's MIME type, and its width and height in pixels.

    The size is the stored one, before any rotation by EXIF (JPEG, WebP, TIFF) or irot (AVIF, HEIC).
    For a GIF it is the logical screen, for a WebP the canvas, for a TIFF the first page, for AVIF
    and HEIC the primary item within its crop (clap). Width and height are None if the file is
    truncated or broken, or says zero.
    """

    type: str
    width: int | None
    height: int | None


def sniff(head: bytes) -> str | None:
    """The MIME type of the image that begins with these bytes, or None if it is unknown."""
    head = head[:HEAD_BYTES]
    for signature, kind in _SIGNATURES:
        if signature.match(head):
            return kind if isinstance(kind, str) else kind(head)
    return None


def read_header(path: str | Path) -> ImageHeader | None:
    """The type and size of the image in this file, or None if it is not a known image.

    Raises OSError, and nothing else.
    """
    with Path(path).open("rb", buffering=0) as file:
        descriptor = file.fileno()
        end = os.fstat(descriptor).st_size
        # pread() does not accept offsets of 2**64.
        return header_of(lambda at, n: os.pread(descriptor, n, at) if at < end else b"", end)


def header_of(read: _Read, end: int) -> ImageHeader | None:
    """The type and size of the image in `end` bytes, which `read(offset, count)` returns."""
    head = read(0, HEAD_BYTES)
    kind = sniff(head)
    if kind is None:
        return None

    def read_on(at: int, count: int) -> bytes:
        if at + count <= len(head) or end <= len(head):
            return head[at : at + count]
        return read(at, count)

    try:
        size = _SIZE_READERS[kind](read_on)
    except (struct.error, IndexError):  # the file ends inside a field
        size = None
    if size is None or min(size) <= 0:
        return ImageHeader(kind, None, None)
    return ImageHeader(kind, size[0], size[1])


def is_other_image(head: bytes) -> bool:
    """These bytes begin an image of a type that is neither uploaded nor converted."""
    is_known = any(signature.match(head) for signature, _ in _OTHER_IMAGES)
    return is_known or _markup(head) == "an SVG drawing"


def describe(head: bytes) -> str:
    """A short description of a file that begins so, for an error message: "an HTML page"."""
    head = head[:HEAD_BYTES]
    if not head:
        return "empty"
    if kind := sniff(head):
        return f"an image of type {kind}"
    for signature, name in (*_OTHERS, *_OTHER_IMAGES):
        if signature.match(head):
            return name
    return _markup(head) or ("plain text" if _is_text(head) else "not a known image type")


# --- Types ---------------------------------------------------------------------------------------


def _png_or_apng(head: bytes) -> str:
    """PNG, or APNG if an acTL chunk comes before the first IDAT (PNG third edition, 11.3.6.1)."""
    at = 8
    while at + 8 <= len(head):
        length, chunk = struct.unpack_from(">I4s", head, at)
        if chunk == b"acTL":
            return "image/apng"
        if chunk == b"IDAT":
            break
        at += 12 + length
    return "image/png"


def _bmp(head: bytes) -> str | None:
    """BMP, if its number of bits per pixel is a valid one (0: a JPEG or PNG inside)."""
    at = 24 if head[14] == 12 else 28
    bits = int.from_bytes(head[at : at + 2], "little")
    return "image/bmp" if bits in {0, 1, 2, 4, 8, 16, 24, 32} else None


_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "image/heic"),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic"),
}


def _avif_or_heic(head: bytes) -> str | None:
    """The type by the first known brand in the ftyp box (ISO 23008-12, annex B; AVIF).

    mif1 and msf1 mean an image of any codec: then a compatible brand decides, and without one it
    counts as HEIC. The brands of MP4 and QuickTime are ignored.
    """
    major = head[8:12]
    end = min(int.from_bytes(head[:4], "big"), len(head))
    for brand in (major, *(head[at : at + 4] for at in range(16, end - 3, 4))):
        if brand in _BRANDS:
            return _BRANDS[brand]
    return "image/heic" if major in {b"mif1", b"msf1"} else None


_SIGNATURES: Final[tuple[tuple[re.Pattern[bytes], str | Callable[[bytes], str | None]], ...]] = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"), _png_or_apng),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"(?s)RIFF....WEBPVP8[ LX]"), "image/webp"),
    (re.compile(rb"(?s)\0...ftyp"), _avif_or_heic),
    # The eight sizes a BMP's header has; TIFF and BigTIFF, in both byte orders.
    (re.compile(rb"(?s)BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"), _bmp),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0\x08\0\0\0|MM\0\+\0\x08\0\0"), "image/tiff"),
)

# --- Sizes ---------------------------------------------------------------------------------------


def _size_at(offset: int, layout: str) -> Callable[[_Read], _Size]:
    count = struct.calcsize(layout)
    return lambda read: struct.unpack(layout, read(offset, count))


def _bmp_size(read: _Read) -> _Size:
    if read(14, 1) == b"\x0c":  # a BITMAPCOREHEADER
        return struct.unpack("<HH", read(18, 4))
    width, height = struct.unpack("<ii", read(18, 8))
    return width, abs(height)  # negative: the rows go from top to bottom


def _webp_size(read: _Read) -> _Size | None:
    """From the first chunk (RFC 9649: 2.7 for VP8X, 3.4 for VP8L; RFC 6386 9.1 for VP8)."""
    chunk = read(12, 18)
    if chunk[3] == ord("X"):
        width, more_width, height, more_height = struct.unpack_from("<HBHB", chunk, 12)
        return 1 + width + (more_width << 16), 1 + height + (more_height << 16)
    if chunk[3] == ord("L"):
        signature, bits = struct.unpack_from("<BI", chunk, 8)
        return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)) if signature == 0x2F else None
    start_code, width, height = struct.unpack_from("<3sHH", chunk, 11)
    return (width & 0x3FFF, height & 0x3FFF) if start_code == b"\x9d\x01\x2a" else None


def _jpeg_size(read: _Read) -> _Size | None:
    """From the first start-of-frame segment (ITU T.81 B.2.2), skipping junk as libjpeg does."""
    at = 2
    for _ in range(_MAX_STEPS):
        window = read(at, 64)
        mark = window.find(b"\xff")
        if mark < 0:
            if not window:
                return None
            at += len(window)
            continue
        at += mark
        code = window[mark + 1] if mark + 1 < len(window) else read(at, 2)[1]
        if code == 0xFF:  # a fill byte before the marker
            at += 1
        elif code <= 0x01 or 0xD0 <= code <= 0xD8:  # markers without a segment
            at += 2
        elif code in {0xD9, 0xDA}:  # the scan, or the end, before any frame
            return None
        elif 0xC0 <= code <= 0xCF and code not in {0xC4, 0xC8, 0xCC}:
            return struct.unpack(">HH", read(at + 5, 4))[::-1]  # the height comes first
        else:
            at += 2 + struct.unpack(">H", read(at + 2, 2))[0]
    return None


def _tiff_size(read: _Read) -> _Size | None:
    """From the tags 256 and 257 of the first directory (TIFF 6.0, section 2; BigTIFF)."""
    order = "<" if read(0, 1) == b"I" else ">"
    big = b"+" in read(2, 2)
    pointer, number, entry, value_at = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    (at,) = struct.unpack(order + pointer, read(8, 8) if big else read(4, 4))
    width_of_count = struct.calcsize(number)
    (count,) = struct.unpack(order + number, read(at, width_of_count))
    directory = read(at + width_of_count, entry * min(count, _MAX_STEPS))
    sides: dict[int, int] = {}
    for at in range(0, len(directory) - entry + 1, entry):
        tag, field = struct.unpack_from(order + "HH", directory, at)
        value = {3: "H", 4: "I", 16: pointer}.get(field)  # SHORT, LONG, BigTIFF's LONG8
        if tag in {256, 257} and value:
            sides.setdefault(tag, *struct.unpack_from(order + value, directory, at + value_at))
    return (sides[256], sides[257]) if len(sides) == 2 else None


def _boxes(read: _Read, at: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """The boxes from `at` on: kind, offset and length of the body (ISO 14496-12, 4.2)."""
    for _ in range(_MAX_STEPS):
        head = read(at, 16)
        if len(head) < 8:
            return
        size, kind = struct.unpack_from(">I4s", head)
        body = 8
        if size == 1:
            body, size = 16, int.from_bytes(head[8:16], "big")
        elif size == 0:  # up to the end
            size = 2**63
        if size < body:
            return
        yield kind, at + body, size - body
        at += size


def _inside(read: _Read, kind: bytes, at: int = 0) -> _Read:
    """A reader of the body of the first box of that kind; reads nothing if there is none."""
    for found, body, length in _boxes(read, at):
        if found == kind:
            inner = read(body, min(length, _MAX_META))
            return lambda start, count: inner[start : start + count]
    return lambda _start, _count: b""


def _primary_properties(meta: _Read, iprp: _Read) -> set[int]:
    """The numbers, from 1, of the primary item's properties (ISO 14496-12 pitm, 23008-12 ipma).

    Raises IndexError or struct.error if the file is truncated there.
    """
    pitm = _inside(meta, b"pitm", 4)
    primary = int.from_bytes(pitm(4, 4 if pitm(0, 1)[0] else 2), "big")
    ipma = _inside(iprp, b"ipma")
    version, flags, entries = struct.unpack(">B2xBI", ipma(0, 8))
    item_bytes = 4 if version else 2
    layout, mask = (">H", 0x7FFF) if flags & 1 else (">B", 0x7F)  # the highest bit: "essential"
    at = 8
    for _ in range(min(entries, _MAX_STEPS)):
        item = int.from_bytes(ipma(at, item_bytes), "big")
        at += item_bytes + 1
        length = ipma(at - 1, 1)[0] * struct.calcsize(layout)
        if item == primary:
            return {n & mask for (n,) in struct.iter_unpack(layout, ipma(at, length))}
        at += length
    return set()


def _avif_or_heic_size(read: _Read) -> _Size | None:
    """The primary item's ispe within its clap; without a primary item, the largest ispe."""
    meta = _inside(read, b"meta")
    iprp = _inside(meta, b"iprp", 4)
    ipco = _inside(iprp, b"ipco")
    sizes: dict[int, _Size] = {}
    crops: dict[int, _Size] = {}
    for number, (kind, body, _length) in enumerate(_boxes(ipco), start=1):
        if kind == b"ispe":
            sizes[number] = struct.unpack(">II", ipco(body + 4, 8))
        elif kind == b"clap":
            crops[number] = struct.unpack(">4I", ipco(body, 16))  # two fractions
    try:
        own = _primary_properties(meta, iprp)
    except (struct.error, IndexError):
        own = set()
    size = max((sizes[n] for n in own & sizes.keys() or sizes), key=math.prod, default=None)
    for n in own & crops.keys():
        width, per_width, height, per_height = crops[n]
        if size and per_width and per_height:
            size = min(size[0], width // per_width), min(size[1], height // per_height)
    return size


_SIZE_READERS: Final[dict[str, Callable[[_Read], _Size | None]]] = {
    "image/jpeg": _jpeg_size,
    "image/png": _size_at(16, ">II"),
    "image/apng": _size_at(16, ">II"),
    "image/gif": _size_at(6, "<HH"),
    "image/webp": _webp_size,
    "image/bmp": _bmp_size,
    "image/tiff": _tiff_size,
    "image/avif": _avif_or_heic_size,
    "image/heic": _avif_or_heic_size,
}

# --- Files that are not known images -------------------------------------------------------------

_OTHERS: Final = (
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"%!PS"), "a PostScript file"),
    (re.compile(rb"PK(?:\x03\x04|\x05\x06)"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"(?s)\0...ftypM4[AB] |ID3|OggS|fLaC|RIFF....WAVE"), "a sound file"),
    (re.compile(rb"(?s)\0...ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01\xba"), "a video"),
)
# Images that are neither uploaded nor converted, as the SVG drawings below are.
_OTHER_IMAGES: Final = (
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "a JPEG XL image"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "a JPEG 2000 image"),
    (re.compile(rb"II\xbc[\0\x01]"), "a JPEG XR image"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"gimp xcf "), "a GIMP file"),
    (re.compile(rb"(?s)\0\0[\x01\x02]\0[^\0]\0"), "an icon"),
    (re.compile(rb"icns"), "an Apple icon"),
    (re.compile(rb"(?s)qoif.{8}[\x03\x04][\0\x01]"), "a QOI image"),
    (re.compile(rb"v/1\x01"), "an OpenEXR image"),
    (re.compile(rb"DDS \x7c\0\0\0"), "a DDS texture"),
    (re.compile(rb"#\?RADIANCE|#\?RGBE"), "a Radiance HDR image"),
    (re.compile(rb"P[1-7]\s+[\d#]|P7\nWIDTH"), "a Netpbm image"),
)

# One item before the first element. (A pattern for all of them would backtrack, for possessive
# repeats have a bug in Python before 3.11.5.)
_PROLOG_ITEM: Final = re.compile(
    rb"(?is)\s+|<!--.*?-->|<\?.*?\?>|<!doctype\s+(\w+)[^>\[]*(?:\[.*?\]\s*)?>"
)
# The name of the first element, or of a document type that is cut off at the head's end.
_FIRST_NAME: Final = re.compile(rb"(?i)<(?:!doctype\s+)?([a-z][\w:.-]*)")
_HTML_TAGS: Final = frozenset(
    b"html head body title meta link base script style iframe div span p a b i br h1 h2 h3 hr"
    b" center font form img table pre ul ol noscript".split()
)


def _markup(head: bytes) -> str | None:
    """The kind of markup, by its first element, or None if it is not markup."""
    text = _decoded(head).lstrip()
    if not text.startswith(b"<"):
        return None
    doctype, at = b"", 0
    while item := _PROLOG_ITEM.match(text, at):
        doctype, at = item[1] or doctype, item.end()
    first = _FIRST_NAME.match(text, at)
    doctype, tag = doctype.lower(), first[1].lower() if first else b""
    if doctype == b"svg" or tag == b"svg" or tag.endswith(b":svg"):
        return "an SVG drawing"
    if doctype == b"html" or tag in _HTML_TAGS or text.startswith(b"<!--"):
        return "an HTML page"
    return "an XML document" if tag or doctype or text.startswith(b"<?xml") else None


def _decoded(head: bytes) -> bytes:
    """The head without its byte order mark; UTF-16 is converted to UTF-8."""
    head = head[:HEAD_BYTES]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", "replace").encode()
    return head.removeprefix(codecs.BOM_UTF8)


def _is_text(head: bytes) -> bool:
    """The head is UTF-8 (perhaps cut inside a character) without control characters."""
    try:
        codecs.utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return not re.search(rb"[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]", head)
