"""Images of each format with all the metadata that it can have; their texts contain SECRET."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

SECRET = b"SECRET"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">SECRET place</x:xmpmeta>'


def picture(step: int = 0) -> Image.Image:
    """A gradient of 24 x 16 pixels."""
    image = Image.new("RGB", (24, 16))
    image.putdata([(x * 10, y * 15, step * 60) for y in range(16) for x in range(24)])
    return image


def exif() -> bytes:
    """EXIF with the orientation 6, GPS and a camera."""
    made = Image.Exif()
    made[0x010F] = "SECRET camera"
    made[0x0112] = 6
    made.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0SECRET comment"
    place = made.get_ifd(0x8825)
    place.update({1: "N", 2: (52.0, 30.0, 0.0), 27: b"ASCII\0\0\0SECRET place"})
    return made.tobytes()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(**options: Any) -> bytes:
    """With EXIF, XMP, IPTC, a comment, thumbnails, another picture and a film behind the image."""
    options = {"exif": exif(), "icc_profile": ICC, "xmp": XMP, "comment": b"SECRET", **options}
    made = saved(picture(), "JPEG", **options)
    segments = b""
    for marker, payload in (
        (0xE0, b"JFXX\0\x10SECRET thumbnail"),
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0SECRET"),
        (0xE2, b"MPF\0SECRET"),
        (0xED, b"Photoshop 3.0\08BIM\x04\x04SECRET"),
        (0xEB, b"JP\0\1SECRET"),
    ):
        segments += struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
    return made[:2] + segments + made[2:] + b"\xff\xd8SECRET\xff\xd9" + b"\0\0\0\x18ftypmp42SECRET"


def png(**options: Any) -> bytes:
    """With EXIF, texts of all three kinds, a time, a chunk of a camera and bytes behind the end."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "SECRET")
    texts.add_text("Packed", "SECRET" * 9, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    texts.add(b"tIME", b"SECRET!")
    texts.add(b"caMe", b"SECRET")
    options = {"pnginfo": texts, "exif": exif(), "icc_profile": ICC, **options}
    return saved(picture(), "PNG", **options) + SECRET


def apng() -> bytes:
    """Of three frames."""
    return png(save_all=True, append_images=[picture(1), picture(2)], duration=100, loop=2)


def gif() -> bytes:
    """Of three frames, with a comment and XMP."""
    made = saved(
        picture().quantize(16),
        "GIF",
        save_all=True,
        append_images=[picture(1).quantize(16), picture(2).quantize(16)],
        duration=100,
        loop=3,
        comment=b"SECRET",
    )
    xmp = b"!\xff\x0bXMP DataXMP" + XMP + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    icc = b"!\xff\x0bICCRGBG1012\x04abcd\0"
    table = 13 + (3 << ((made[10] & 7) + 1) if made[10] & 0x80 else 0)
    return made[:table] + icc + xmp + made[table:] + SECRET


def webp(**options: Any) -> bytes:
    """With EXIF, XMP, a chunk of a camera and bytes behind the end."""
    made = saved(picture(), "WEBP", exif=exif(), icc_profile=ICC, xmp=XMP, **options)
    made += b"CAME\x06\0\0\0SECRET"
    return b"RIFF" + struct.pack("<I", len(made) - 8) + made[8:] + SECRET


def animated_webp() -> bytes:
    """Of three frames."""
    return webp(save_all=True, append_images=[picture(1), picture(2)], duration=100, lossless=True)


def tiff(*, big: bool = False, **options: Any) -> bytes:
    """With EXIF, GPS, XMP, IPTC, a description and bytes that nothing refers to."""
    tags = ImageFileDirectory_v2()
    tags[270] = "SECRET description"
    tags[274] = 6
    if "compression" not in options:  # libtiff, which compresses, does not write these
        made = Image.Exif()
        made.load(exif())
        tags[700] = XMP
        tags[33723] = b"SECRET IPTC"
        tags[37724] = b"SECRET layers"
        tags[34853] = made.get_ifd(0x8825)
        tags[34665] = made.get_ifd(0x8769)
    options = {"tiffinfo": tags, "icc_profile": ICC, "big_tiff": big, **options}
    return saved(picture(), "TIFF", **options) + b"SECRET"


def avif() -> bytes:
    """With EXIF and XMP."""
    return saved(picture(), "AVIF", exif=exif(), icc_profile=ICC, xmp=XMP)


def heic() -> bytes:
    """With EXIF and XMP."""
    pillow_heif.register_heif_opener()
    return saved(picture(), "HEIF", exif=exif(), icc_profile=ICC, xmp=XMP)


PHOTOGRAPHS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG": ("image/jpeg", jpeg),
    "progressive JPEG": ("image/jpeg", lambda: jpeg(progressive=True)),
    "PNG": ("image/png", png),
    "APNG": ("image/apng", apng),
    "GIF": ("image/gif", gif),
    "WebP": ("image/webp", webp),
    "lossless WebP": ("image/webp", lambda: webp(lossless=True)),
    "animated WebP": ("image/webp", animated_webp),
    "TIFF": ("image/tiff", tiff),
    "BigTIFF": ("image/tiff", lambda: tiff(big=True)),
    "pages of TIFF": ("image/tiff", lambda: tiff(save_all=True, append_images=[picture(1)])),
    "packed TIFF": ("image/tiff", lambda: tiff(compression="tiff_lzw")),
    "AVIF": ("image/avif", avif),
    "HEIC": ("image/heic", heic),
}
"""The type of each, as sniff names it, and what makes it."""
