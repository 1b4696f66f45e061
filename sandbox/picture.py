"""Check and clean images as Imgur does, and make thumbnails, with Pillow.

Never on the event loop.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from .metadata import strip_metadata

# The imports register the plugins, so that no request waits for Pillow to load all of them.
_PLUGINS = (GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin)

# Pillow's format → (MIME type, extension of the link). MPO is a JPEG with more after it.
FORMATS = {
    "JPEG": ("image/jpeg", "jpg"),
    "MPO": ("image/jpeg", "jpg"),
    "PNG": ("image/png", "png"),
    "GIF": ("image/gif", "gif"),
    "TIFF": ("image/tiff", "tiff"),
}
EXTENSIONS = dict(FORMATS.values())

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_JPEG_QUALITY = 95  # of an image that had to be turned
_LOSSY_QUALITY = 80  # of a large image that is recompressed
LARGE_PNG = 5 * 10**6
LARGE_ANONYMOUS = 10**6

MAX_PIXELS = 89_478_485  # Pillow's limit for decompression bombs: 256 MiB of RGB

# Suffix → (pixels, whether cropped to a square); always JPEG (letters: ShareX Imgur.cs).
THUMBNAILS = {
    "s": (90, True),
    "b": (160, True),
    "t": (160, False),
    "m": (320, False),
    "l": (640, False),
    "h": (1024, False),
}

# The exceptions of Pillow for hostile files.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Warning,
)


class NotAnImage(Exception):
    """The bytes are not a JPEG, PNG, GIF or TIFF, are truncated, or are a decompression bomb."""


@dataclass(frozen=True)
class Picture:
    """The properties of an image."""

    type: str
    width: int
    height: int
    animated: bool
    is_upright: bool = True


def cleaned(content: bytes) -> tuple[Picture, bytes]:
    """The image as Imgur stores it: turned as its EXIF says, and without metadata.

    Raises NotAnImage if Imgur would refuse it. Only a TIFF, and an image that had to be turned, are
    encoded anew.
    """
    picture = look(content)
    try:
        if picture.type == "image/tiff" or not (picture.is_upright or picture.animated):
            content = _redrawn(content)
            picture = look(content)
        if picture.type != "image/tiff":
            content = strip_metadata(content, picture.type)
    except _BROKEN as error:
        raise NotAnImage(str(error)) from error
    return picture, content


def recompressed(picture: Picture, content: bytes, *, anonymous: bool) -> tuple[Picture, bytes]:
    """A cleaned image as Imgur recompresses it; one that is small enough comes back as it is.

    PNGs over 5 MB become JPEGs, and so do all anonymous stills over 1 MB; a TIFF becomes a PNG
    first. Raises NotAnImage. The quality of Imgur's JPEGs is not published.
    """
    try:
        if picture.type == "image/tiff":
            content = _encoded(content, "PNG")
        is_large = len(content) > (LARGE_ANONYMOUS if anonymous else LARGE_PNG)
        if is_large and not picture.animated and (anonymous or picture.type != "image/jpeg"):
            content = _encoded(content, "JPEG")
    except _BROKEN as error:
        raise NotAnImage(str(error)) from error
    return look(content), content


def look(content: bytes) -> Picture:
    """The properties of the image; NotAnImage if Imgur would refuse it.

    The first frame is decoded in full, so that a truncated file is found out. A JPEG is decoded
    at an eighth of its size, which reads every coefficient for a third of the time. More than
    MAX_PIXELS are not decoded at all.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "GIF", "TIFF")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise NotAnImage("too many pixels")
            kind = FORMATS[image.format or ""][0]
            animated = kind in ("image/gif", "image/png") and getattr(image, "is_animated", False)
            if kind == "image/jpeg":
                image.draft("L", (1, 1))
            image.load()
            is_upright = image.getexif().get(_ORIENTATION, 1) == 1
    except _BROKEN as error:
        raise NotAnImage(str(error)) from error
    return Picture(kind, width, height, bool(animated), is_upright)


def _redrawn(content: bytes) -> bytes:
    """The first frame, turned and encoded anew in its own format, with its colour profile."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(content)) as opened:
        kind = "JPEG" if opened.format == "MPO" else opened.format
        image = ImageOps.exif_transpose(opened)
        kept = {"icc_profile", "transparency"} & image.info.keys()
        options = {name: image.info[name] for name in kept}
        image.info = {}
        if kind == "JPEG":
            options["quality"] = _JPEG_QUALITY
        image.save(out, kind, **options)
    return out.getvalue()


def _encoded(content: bytes, kind: str) -> bytes:
    """The first frame in another format; in a JPEG on white, and lossy."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(content)) as opened:
        if kind == "PNG":
            opened.save(out, kind)
        else:
            image = Image.new("RGB", opened.size, "white")
            layer = opened.convert("RGBA")
            image.paste(layer, mask=layer)
            image.save(out, kind, quality=_LOSSY_QUALITY)
    return out.getvalue()


def thumbnail(content: bytes, suffix: str) -> bytes:
    """The JPEG thumbnail of the size `suffix`, for bytes that `look` has accepted."""
    pixels, square = THUMBNAILS[suffix]
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "GIF", "TIFF")) as opened:
        opened.draft("RGB", (pixels, pixels))
        image: Image.Image = opened.convert("RGB")
        if square:
            image = ImageOps.fit(image, (pixels, pixels))
        else:
            image.thumbnail((pixels, pixels))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80)
    return out.getvalue()


def placeholder(width: int, height: int) -> bytes:
    """A grey PNG of the size of one of i.imgur.com's pictures in place of an image."""
    out = io.BytesIO()
    Image.new("L", (width, height), 0x22).save(out, "PNG")
    return out.getvalue()
