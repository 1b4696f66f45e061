"""Tests of fetch.sniff: every real image is recognized with its size, other files are not, and
no input makes it raise or run long.

The sizes below were written down from Pillow 13.0.0 and pillow-heif 1.8.1, except bmp-os2-v2-short
(Pillow cannot read it; its maker's description says 127 by 64).
"""

import contextlib
import io
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imageload.fetch.sniff import (
    HEAD_BYTES,
    ImageHeader,
    describe,
    is_other_image,
    read_header,
    sniff,
)

IMAGES = Path(__file__).parent / "images"
NOT_IMAGES = IMAGES / "not-images"

EXPECTED = {
    "apng-16-bit.png": ("image/apng", 128, 64),
    "apng-animated.png": ("image/apng", 128, 64),
    "apng-single-frame.png": ("image/apng", 128, 64),
    "avif-alpha.avif": ("image/avif", 64, 64),
    "avif-rotated.avif": ("image/avif", 427, 640),
    "avif-sequence.avif": ("image/avif", 159, 159),
    "avif-still.avif": ("image/avif", 128, 128),
    "bmp-1-bit.bmp": ("image/bmp", 127, 64),
    "bmp-core-header-os2.bmp": ("image/bmp", 127, 64),
    "bmp-info-header.bmp": ("image/bmp", 127, 64),
    "bmp-os2-v2-short.bmp": ("image/bmp", 127, 64),
    "bmp-rle.bmp": ("image/bmp", 127, 64),
    "bmp-top-down.bmp": ("image/bmp", 127, 64),
    "bmp-v4.bmp": ("image/bmp", 127, 64),
    "bmp-v5.bmp": ("image/bmp", 127, 64),
    "gif-87a.gif": ("image/gif", 64, 64),
    "gif-89a.gif": ("image/gif", 128, 128),
    "gif-animated.gif": ("image/gif", 100, 100),
    "gif-no-palette.gif": ("image/gif", 1, 1),
    "heic-10-bit.heic": ("image/heic", 29, 100),
    "heic-alpha.heic": ("image/heic", 29, 100),
    "heic-cropped.heic": ("image/heic", 29, 100),
    "heic-mif1-major.heic": ("image/heic", 128, 128),
    "heic-stereo-pair.heic": ("image/heic", 64, 64),
    "heic-still.heic": ("image/heic", 128, 128),
    "heic-with-thumbnail.heic": ("image/heic", 128, 128),
    "jpeg-baseline.jpg": ("image/jpeg", 128, 128),
    "jpeg-cmyk.jpg": ("image/jpeg", 100, 100),
    "jpeg-exif-orientation-6.jpg": ("image/jpeg", 128, 128),
    "jpeg-exif-orientation-rectangle.jpg": ("image/jpeg", 2, 1),
    "jpeg-extended-sof1.jpg": ("image/jpeg", 128, 128),
    "jpeg-gray.jpg": ("image/jpeg", 128, 128),
    "jpeg-icc-after-sof.jpg": ("image/jpeg", 10, 10),
    "jpeg-progressive-cut-short.jpg": ("image/jpeg", 100, 100),
    "jpeg-progressive-large-app13.jpg": ("image/jpeg", 256, 160),
    "jpeg-progressive.jpg": ("image/jpeg", 128, 128),
    "jpeg-ultrahdr-gain-map.jpg": ("image/jpeg", 1512, 2688),
    "png-1-pixel.png": ("image/png", 1, 1),
    "png-16-bit.png": ("image/png", 29, 100),
    "png-actl-after-idat.png": ("image/png", 128, 64),
    "png-gray-alpha-16-bit.png": ("image/png", 29, 100),
    "png-interlaced-palette.png": ("image/png", 162, 150),
    "png-palette.png": ("image/png", 127, 64),
    "png-rgb.png": ("image/png", 128, 128),
    "png-rgba.png": ("image/png", 29, 100),
    "polyglot.png": ("image/png", 127, 64),
    "tiff-big-endian.tif": ("image/tiff", 64, 64),
    "tiff-bigtiff.tif": ("image/tiff", 128, 128),
    "tiff-jpeg-compressed.tif": ("image/tiff", 256, 256),
    "tiff-little-endian.tif": ("image/tiff", 590, 88),
    "tiff-multi-page.tif": ("image/tiff", 10, 10),
    "tiff-rgb-big-endian.tif": ("image/tiff", 55, 43),
    "truncated.png": ("image/png", 128, 128),
    "webp-animated.webp": ("image/webp", 100, 100),
    "webp-extended-alpha.webp": ("image/webp", 200, 150),
    "webp-extended-exif-orientation-5.webp": ("image/webp", 128, 128),
    "webp-extended-xmp.webp": ("image/webp", 10, 10),
    "webp-lossless-vp8l.webp": ("image/webp", 97, 61),
    "webp-lossy-vp8.webp": ("image/webp", 128, 128),
}

REFUSED = {
    "archive.zip": "a ZIP archive",
    "bare-drawing.svg": "an SVG drawing",
    "begins-with-bm.txt": "plain text",
    "drawing.svg": "an SVG drawing",
    "empty": "empty",
    "error.json": "plain text",
    "error.xml": "an XML document",
    "head-mp42.mp4": "a video",
    "head.mp4": "a video",
    "head.pdf": "a PDF",
    "one-byte": "not a known image type",
    "page-with-comment.html": "an HTML page",
    "page.html": "an HTML page",
}

PIL_FORMATS = {"image/apng": "PNG"}  # the others are named alike
PAPERS = {"README.md", "LICENSE-pillow.txt", "LICENSE-pillow-heif.txt"}
PIL_CANNOT = {"bmp-os2-v2-short.bmp"}


def header_of(content: bytes, tmp_path: Path) -> ImageHeader | None:
    path = tmp_path / "image"
    path.write_bytes(content)
    return read_header(path)


# --- Real images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_real_image_is_known_with_its_type_and_size(name: str) -> None:
    assert read_header(IMAGES / name) == ImageHeader(*EXPECTED[name])


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_first_bytes_are_enough_for_the_type(name: str) -> None:
    head = (IMAGES / name).read_bytes()[:HEAD_BYTES]
    assert sniff(head) == EXPECTED[name][0]
    assert not is_other_image(head)


def test_every_fixture_has_its_expectation_and_its_line_in_the_readme() -> None:
    readme = (IMAGES / "README.md").read_text()
    assert {path.name for path in IMAGES.glob("*.*")} - PAPERS == {*EXPECTED}
    assert {path.name for path in NOT_IMAGES.iterdir()} == {*REFUSED}
    assert [name for name in (*EXPECTED, *REFUSED) if f"`{name}`" not in readme] == []


@pytest.mark.parametrize(
    "name", sorted(n for n in EXPECTED if not n.startswith("heic-") and n not in PIL_CANNOT)
)
def test_pillow_agrees_on_the_size(name: str) -> None:
    header = read_header(IMAGES / name)
    assert header is not None
    kind = PIL_FORMATS.get(header.type, header.type.removeprefix("image/").upper())
    with Image.open(IMAGES / name, formats=[kind]) as image:
        assert image.size == (header.width, header.height)


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    path = tmp_path / "no-suffix"
    path.write_bytes((IMAGES / "gif-89a.gif").read_bytes())
    assert read_header(str(path)) == ImageHeader("image/gif", 128, 128)


def test_a_missing_file_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "absent.png")


# --- Bodies without an image ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_files_are_rejected_and_described(name: str) -> None:
    head = (NOT_IMAGES / name).read_bytes()[:HEAD_BYTES]
    assert sniff(head) is None
    assert read_header(NOT_IMAGES / name) is None
    assert describe(head) == REFUSED[name]
    assert is_other_image(head) == name.endswith(".svg")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"  \r\n\t<HTML>", "an HTML page"),
        (b"<!-- a --><!-- b -->\n<!doctype HTML>", "an HTML page"),
        (b"<!-- " + b"cut off by the end of the head " * 200, "an HTML page"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "an HTML page"),
        (b"\xef\xbb\xbf\n<SVG width='1'>", "an SVG drawing"),
        (b"<svg:svg xmlns:svg='http://www.w3.org/2000/svg'>", "an SVG drawing"),
        (b"<!DOCTYPE svg [ <!ENTITY a '<b>'> ]><svg>", "an SVG drawing"),
        (b"<!DOCTYPE svg PUBLIC '' '' [" + b"<!ENTITY a 'b'>" * 500, "an SVG drawing"),
        ("\ufeff<?xml version='1.0'?><svg>".encode("utf-16-le"), "an SVG drawing"),
        ("\ufeff<!doctype html>".encode("utf-16-be"), "an HTML page"),
        (b"<!-- <svg> --><rss>", "an HTML page"),
        (b"<rss version='2.0'>", "an XML document"),
        (b"<3 you", "plain text"),
        ("Überlastet, später".encode(), "plain text"),
        ("é".encode()[:1], "plain text"),
        (b"caf\xe9 noir", "not a known image type"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"\x1aE\xdf\xa3\x01", "a video"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "a sound file"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL image"),
        (b"\0\0\1\0\1\0\x10\x10", "an icon"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"GIF89a\1\0\1\0", "an image of type image/gif"),
    ],
)
def test_the_description_names_the_kind_of_file(head: bytes, name: str) -> None:
    assert describe(head) == name


@pytest.mark.parametrize(
    "head",
    [
        b"BM",
        b"BMW and a bitmap have two letters in common, and a header size of text is none",
        b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(8) + b"\1\0" + b"\7\0",  # 7 bits per pixel
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50\0\x20\2",  # an iPhone app's, which only iOS reads
        b"GIF88a\1\0\1\0",
        b"RIFF\x10\0\0\0WEBPWHAT",
        b"RIFF\x10\0\0\0AVI LIST",
        b"II*\x01\x08\0\0\0",
        b"Hey ftyp, no box",
        b"\xff\xd8",
        b"\0\0\0\x1cftypisom\0\0\2\0isommp41avc1",
    ],
)
def test_a_signature_alone_is_not_enough(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"avif----mif1miaf", "image/avif"),
        (b"avis----msf1avif", "image/avif"),
        (b"mif1----miafavif", "image/avif"),
        (b"mif1----mif1heic", "image/heic"),
        (b"heix----mif1avif", "image/heic"),
        (b"hevc----msf1", "image/heic"),
        (b"msf1----", "image/heic"),
        (b"isom----mp42", None),
        (b"qt  ----", None),
    ],
)
def test_the_major_brand_decides_before_the_compatible_ones(brands: bytes, kind: str) -> None:
    assert sniff(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + b"avifheic") == kind


def test_an_animation_chunk_counts_only_before_the_picture() -> None:
    animated = (IMAGES / "apng-animated.png").read_bytes()
    assert sniff(animated) == "image/apng"
    assert sniff(animated.replace(b"acTL", b"ahTL", 1)) == "image/png"


# --- Sizes that are not stored plainly -----------------------------------------------------------


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def heic(*properties: bytes, primary: int = 1, associations: bytes = b"") -> bytes:
    ftyp = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    pitm = box(b"pitm", bytes(4), struct.pack(">H", primary))
    ipma = box(b"ipma", bytes(4), associations) if associations else b""
    return ftyp + box(b"meta", bytes(4), pitm, box(b"iprp", box(b"ipco", *properties), ipma))


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", bytes(4), struct.pack(">II", width, height))


def test_a_tile_larger_than_the_picture_is_not_its_size(tmp_path: Path) -> None:
    entries = struct.pack(">IHBBHBB", 2, 1, 1, 0x81, 2, 1, 2)  # item 1 has ispe 1, item 2 ispe 2
    content = heic(ispe(512, 512), ispe(600, 400), primary=2, associations=entries)
    assert header_of(content, tmp_path) == ImageHeader("image/heic", 600, 400)


def test_without_a_primary_item_the_largest_size_counts(tmp_path: Path) -> None:
    content = heic(ispe(160, 120), ispe(640, 480), ispe(320, 240))
    assert header_of(content, tmp_path) == ImageHeader("image/heic", 640, 480)


@pytest.mark.parametrize("crop", [(29, 1, 100, 1), (58, 2, 300, 3)])
def test_a_crop_makes_the_picture_smaller(crop: tuple[int, ...], tmp_path: Path) -> None:
    entries = struct.pack(">IHBBB", 1, 1, 2, 1, 2)
    clap = box(b"clap", struct.pack(">4I", *crop), bytes(16))
    content = heic(ispe(64, 128), clap, associations=entries)
    assert header_of(content, tmp_path) == ImageHeader("image/heic", 29, 100)


def test_a_crop_by_zero_or_beyond_the_picture_changes_nothing(tmp_path: Path) -> None:
    entries = struct.pack(">IHBBB", 1, 1, 2, 1, 2)
    for crop in ((29, 0, 100, 0), (9999, 1, 9999, 1)):
        clap = box(b"clap", struct.pack(">4I", *crop), bytes(16))
        content = heic(ispe(64, 128), clap, associations=entries)
        assert header_of(content, tmp_path) == ImageHeader("image/heic", 64, 128)


def test_the_size_is_found_behind_the_picture_too(tmp_path: Path) -> None:
    """Some cameras write mdat before meta: with a plain length, a 64-bit one, after a free box."""
    content = heic(ispe(640, 480))
    ftyp, meta = content[:24], content[24:]
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 100_000) + bytes(100_000)
    for between in (box(b"mdat", bytes(100_000)), large, box(b"free") + large):
        assert header_of(ftyp + between + meta, tmp_path) == ImageHeader("image/heic", 640, 480)


def tiff(order: str, width: int, height: int, *, layout: str = "H", big: bool = False) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    number, pointer, size = ("Q", "Q", 8) if big else ("H", "I", 4)
    head = mark + (
        struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    )
    field = {"H": 3, "I": 4, "Q": 16}[layout]
    entries = b"".join(
        struct.pack(order + "HH" + pointer, tag, field, 1)
        + struct.pack(order + layout, value).ljust(size, b"\0")
        for tag, value in ((256, width), (257, height))
    )
    return head + struct.pack(order + number, 2) + entries + bytes(size)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["H", "I", "Q"])
def test_tiff_sizes_of_every_width_and_byte_order_are_read(
    order: str, layout: str, tmp_path: Path
) -> None:
    expected = ImageHeader("image/tiff", 640, 480)
    assert header_of(tiff(order, 640, 480, layout=layout, big=True), tmp_path) == expected
    if layout != "Q":
        assert header_of(tiff(order, 640, 480, layout=layout), tmp_path) == expected


def test_junk_and_fill_bytes_between_jpeg_segments_are_skipped(tmp_path: Path) -> None:
    content = (IMAGES / "jpeg-baseline.jpg").read_bytes()
    for between in (b"\xff" * 9, b"junk" * 40, b"\xff\x01\xff\xd0", bytes(61), b"\xff\x00"):
        changed = content[:20] + between + content[20:]  # after SOI and the JFIF segment
        assert header_of(changed, tmp_path) == ImageHeader("image/jpeg", 128, 128)


def test_a_size_of_zero_is_no_size(tmp_path: Path) -> None:
    content = b"GIF89a\0\0\1\0" + bytes(20)
    assert header_of(content, tmp_path) == ImageHeader("image/gif", None, None)


def test_an_image_cut_before_its_size_is_still_known(tmp_path: Path) -> None:
    for name in ("jpeg-baseline.jpg", "png-rgb.png", "webp-lossy-vp8.webp", "heic-still.heic"):
        kind = EXPECTED[name][0]
        cut = (IMAGES / name).read_bytes()[:20]
        assert header_of(cut, tmp_path) in (ImageHeader(kind, None, None), None)


# --- Hostile bytes -------------------------------------------------------------------------------

MEGABYTE = 1_000_000
HOSTILE: dict[str, Callable[[], bytes]] = {
    "JPEG of empty segments": lambda: b"\xff\xd8" + b"\xff\xe0\0\2" * (MEGABYTE // 4),
    "JPEG of segments of no length": lambda: b"\xff\xd8" + b"\xff\xe0\0\0" * (MEGABYTE // 4),
    "JPEG of fill bytes": lambda: b"\xff\xd8" + b"\xff" * MEGABYTE,
    "JPEG of zeros": lambda: b"\xff\xd8\xff" + bytes(MEGABYTE),
    "PNG of empty chunks": lambda: (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(17) + b"\0\0\0\0tEXt\0\0\0\0" * 90_000
    ),
    "TIFF whose directory is beyond the end": lambda: b"II*\0\xff\xff\xff\xff",
    "TIFF whose directory is its own header": lambda: b"II*\0\0\0\0\0" + bytes(MEGABYTE),
    "TIFF of 65,535 tags": lambda: b"II*\0\x08\0\0\0" + b"\xff" * MEGABYTE,
    "BigTIFF at the end of the address space": lambda: b"II+\0\x08\0\0\0" + b"\xff" * 100,
    "BigTIFF of 2**64 tags": lambda: b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * MEGABYTE,
    "HEIC of empty boxes": lambda: heic()[:24] + box(b"free") * (MEGABYTE // 8),
    "HEIC of boxes of no size": lambda: heic()[:24] + b"\0\0\0\1free" + bytes(MEGABYTE),
    "HEIC with a box to the end": lambda: heic()[:24] + b"\0\0\0\0meta" + bytes(MEGABYTE),
    "HEIC with a box of 2**64": lambda: heic()[:24] + b"\0\0\0\1mdat" + b"\xff" * 8 + bytes(99),
    "HEIC of nested boxes": lambda: heic()[:24] + b"\0\0\0\0meta\0\0\0\0" * 9_000,
    "HEIC of 30,000 sizes": lambda: heic(*[ispe(9, 9)] * 30_000),
    "HEIC of 2**32 items": lambda: heic(ispe(9, 9), associations=b"\xff" * 4 + b"\0\0\0" * 300_000),
    "WebP cut in its first chunk": lambda: b"RIFF\0\0\0\0WEBPVP8X",
    "BMP of the smallest number": lambda: (
        b"BM" + bytes(12) + b"\x28\0\0\0" + b"\0\0\0\x80" * 2 + b"\1\0\x18\0"
    ),
    "comments without end": lambda: b"<!---->" * 300_000,
    "a document type without end": lambda: b"<!doctype svg [" + b"]" * MEGABYTE,
    "white space without end": lambda: b" " * MEGABYTE + b"<svg>",
    "processing instructions without end": lambda: b"<?" * MEGABYTE,
}


@contextlib.contextmanager
def little_work() -> Iterator[None]:
    """Check that the block takes little time of the CPU, which a busy machine does not change."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < 0.5  # some 0.01; without bounds it takes minutes


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_neither_raise_nor_take_long(name: str, tmp_path: Path) -> None:
    content = HOSTILE[name]()
    path = tmp_path / "hostile"
    path.write_bytes(content)
    with little_work():
        header = read_header(path)
        describe(content)
        is_other_image(content)
    assert header is None or header.type == sniff(content)


SAMPLES = [(IMAGES / name).read_bytes()[:9000] for name in sorted(EXPECTED)]


def check_any_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with little_work():
        header = read_header(path)
    assert (header.type if header else None) == sniff(content)
    if header and header.width is not None and header.height is not None:
        assert header.width > 0
        assert header.height > 0
    assert describe(content)
    assert is_other_image(content) in (True, False)


@settings(max_examples=150)
@given(content=st.binary(max_size=300))
def test_random_bytes_never_raise(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_any_bytes(content, tmp_path_factory.getbasetemp() / "random")


@settings(max_examples=150)
@given(
    start=st.sampled_from(
        [
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
            b"GIF89a",
            b"II*\0",
            b"MM\0+\0\x08\0\0",
            b"RIFF0000WEBPVP8L",
            heic()[:24],
            heic()[:24] + b"\0\0\0\0meta\0\0\0\0",
            b"<?xml",
            b"<!doctype ",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_random_bytes_behind_a_real_signature_never_raise(
    start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_any_bytes(start + rest, tmp_path_factory.getbasetemp() / "signed")


@settings(max_examples=250)
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), max_size=4),
    length=st.integers(0, 9000) | st.just(9000),
)
def test_mutated_and_truncated_images_never_raise(
    sample: bytes,
    changes: list[tuple[int, bytes]],
    length: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(sample)
    for at, new in changes:
        content[at : at + len(new)] = new
    check_any_bytes(bytes(content[:length]), tmp_path_factory.getbasetemp() / "mutated")


@settings(max_examples=50)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
def test_any_size_pillow_writes_is_read_back(
    kind: str, width: int, height: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written = io.BytesIO()
    Image.new("L", (width, height)).save(written, kind)
    header = header_of(written.getvalue(), tmp_path_factory.getbasetemp())
    assert header == ImageHeader(f"image/{kind.lower()}", width, height)
