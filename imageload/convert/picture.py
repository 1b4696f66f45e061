"""Decoded images, still or animated, and the encodings that each may have.

Only a worker imports this module, for it imports Pillow.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, cast

from PIL import Image, ImageCms, ImageFile, ImageOps

from imageload.convert.gif import Frame, write_gif
from imageload.errors import DownloadError

FRAMES_FACTOR: Final = 4
"""All frames of an animation together may have this many times the pixels of a still image."""

BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What Pillow and its plugins raise for broken files."""

_PLUGINS: Final = {
    "image/webp": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "image/avif": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "image/heic": ("pillow_heif", "HeifImageFile"),
    "image/bmp": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "image/jpeg": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "image/png": ("PIL.PngImagePlugin", "PngImageFile"),
    "image/apng": ("PIL.PngImagePlugin", "PngImageFile"),
    "image/gif": ("PIL.GifImagePlugin", "GifImageFile"),
    "image/tiff": ("PIL.TiffImagePlugin", "TiffImageFile"),
}
_ANIMATED: Final = frozenset({"image/webp", "image/avif", "image/gif", "image/apng"})
_LOSSLESS: Final = frozenset({"image/bmp", "image/png", "image/apng", "image/gif", "image/tiff"})
_ICC_SPACES: Final = {"1": b"GRAY", "L": b"GRAY", "LA": b"GRAY", "CMYK": b"CMYK"}
_MAX_JPEG_SIDE: Final = 65_500  # libjpeg's


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to write an image: its type, its size in pixels, and `write(file)`."""

    type: str
    size: tuple[int, int]
    write: Callable[[IO[bytes]], None]


def read_picture(path: Path, kind: str, max_pixels: int) -> Still | Animation:
    """The image of type `kind` in `path`; raises `too_many_pixels`, and BROKEN if it is broken."""
    Image.MAX_IMAGE_PIXELS = max_pixels  # for pixels that grow in the decoder, as a GIF's frames
    # The plugin itself, not Image.open: that goes by a file's major brand, sniff by all.
    module, name = _PLUGINS[kind]
    plugin = importlib.import_module(module)
    if kind == "image/avif":
        plugin.DEFAULT_MAX_THREADS = 2  # type: ignore[attr-defined] # its memory grows with them
    image: ImageFile.ImageFile = getattr(plugin, name)(path)
    pixels = math.prod(image.size)
    _check_pixels(pixels, max_pixels)
    frames = getattr(image, "n_frames", 1) if kind in _ANIMATED else 1
    if frames == 1:
        return _still(image, kind, path)
    _check_pixels(pixels * frames, FRAMES_FACTOR * max_pixels)
    return Animation(image, kind)


def _check_pixels(pixels: int, most: int) -> None:
    if pixels > most:
        raise DownloadError(
            "too_many_pixels", f"The image has {pixels:,} pixels; at most {most:,} are accepted."
        )


@dataclass(frozen=True, slots=True)
class Still:
    """An upright image of 8 bits per channel, without metadata except for the ICC profile `icc`."""

    image: Image.Image
    icc: bytes | None
    opaque: bool
    lossless: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    def best(self) -> Encoding:
        """A JPEG, or a PNG if it has transparency or its source is lossless; of any length."""
        return self._jpeg(92) if self.opaque and not self.lossless else self._png()

    def leaner(self) -> Iterator[Encoding]:
        """PNG if that may be lean, then JPEG of falling quality if it is opaque."""
        if not self.opaque or (self.lossless and self.image.mode != "CMYK"):
            yield self._png()
        if self.opaque and max(self.size) <= _MAX_JPEG_SIDE:
            for quality in 90, 85, 75:
                yield self._jpeg(quality)

    def smaller(self, size: tuple[int, int]) -> Encoding:
        """The leanest, with `size` pixels: a JPEG of quality 75, or a PNG if it is transparent."""
        image = _mixable(self.image)
        still = replace(self, image=image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3))
        return still._jpeg(75) if self.opaque and max(size) <= _MAX_JPEG_SIDE else still._png()

    def _png(self) -> Encoding:
        def write(file: IO[bytes]) -> None:
            # Level 3 takes a third of the time of 6, the default, for files within 1 % of its.
            self.image.save(file, "PNG", compress_level=3, icc_profile=self.icc)

        return Encoding("image/png", self.size, write)

    def _jpeg(self, quality: int) -> Encoding:
        image = _mixable(self.image)

        def write(file: IO[bytes]) -> None:
            # Pillow buffers the whole file and expects at most one byte per pixel; noise has more.
            ImageFile.MAXBLOCK = 65536 + 5 * math.prod(image.size)
            image.save(
                file,
                "JPEG",
                quality=quality,
                subsampling="4:4:4" if quality >= 90 else "4:2:0",
                optimize=True,
                progressive=True,
                icc_profile=self.icc,
            )

        return Encoding("image/jpeg", self.size, write)


def _still(source: ImageFile.ImageFile, kind: str, path: Path) -> Still:
    source.load()
    icc = source.info.get("icc_profile")
    upright = _upright(source)
    # The pixels alone: `source` keeps its decoder, of 8 bytes per pixel for a WebP.
    image = _with_eight_bits(upright._new(upright.im))
    opaque = _is_opaque(image)
    if opaque and image.mode in {"LA", "RGBA"}:
        image = image.convert(image.mode.removesuffix("A"))
    elif not opaque and image.mode != "LA":
        image = image.convert("RGBA")
    if icc and icc[16:20] == b"RGB " and image.mode in {"1", "L", "LA"}:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    if icc and icc[16:20] != _ICC_SPACES.get(image.mode, b"RGB "):
        icc = None
    image.info.clear()  # or Pillow would write some of it
    lossless = kind in _LOSSLESS or (kind == "image/webp" and _is_vp8l(path))
    return Still(image, icc, opaque, lossless)


@dataclass(frozen=True, slots=True)
class Animation:
    """An image whose frames are decoded one after the other, anew for every encoding."""

    source: ImageFile.ImageFile
    kind: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return _upright(self._frame(0)).size

    def best(self) -> Encoding:
        """A GIF of 256 colours per frame."""
        return self._gif(256, self.size)

    def leaner(self) -> Iterator[Encoding]:
        """A GIF of 128 colours per frame."""
        yield self._gif(128, self.size)

    def smaller(self, size: tuple[int, int]) -> Encoding:
        """A GIF of 128 colours per frame with `size` pixels."""
        return self._gif(128, size)

    def _gif(self, colors: int, size: tuple[int, int]) -> Encoding:
        def write(file: IO[bytes]) -> None:
            write_gif(file, self._frames(size), colors=colors, repeats=self._repeats())

        return Encoding("image/gif", size, write)

    def _repeats(self) -> int | None:
        """How often it plays again, as GIF counts: 0 is for ever, None not at all."""
        loops = self.source.info.get("loop", None if self.kind == "image/gif" else 0)
        if self.kind == "image/gif" or not loops:
            return loops
        return min(loops - 1, 65535) or None  # WebP and APNG count the first time too

    def _frame(self, number: int) -> Image.Image:
        self.source.seek(number)
        return self.source.copy()

    def _frames(self, size: tuple[int, int]) -> Iterator[Frame]:
        """The whole frames, upright and of `size` pixels."""
        to_srgb = _to_srgb(self.source.info.get("icc_profile"))
        behind = 0.0  # milliseconds by which the GIF is behind, for it counts hundredths
        first = 1 if getattr(self.source, "default_image", False) else 0  # APNG: is not shown
        for number in range(first, getattr(self.source, "n_frames", 1)):
            frame = _with_eight_bits(_upright(self._frame(number)))
            frame = frame.convert("RGBA" if frame.has_transparency_data else "RGB")
            if frame.size != size:
                frame = frame.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
            opaque = Image.new("L", size, 255)
            if frame.mode == "RGBA":
                opaque = frame.getchannel("A").point([0] * 128 + [255] * 128)
            # Browsers show a GIF's 0 and 1 hundredths as ten, and 10 ms and less of other formats.
            asked = self.source.info.get("duration") or 0
            behind += asked if asked > 10 else 100
            hundredths = min(max(round(behind / 10), 2), 65535)
            behind = max(behind - 10 * hundredths, -20)
            yield Frame(to_srgb(frame.convert("RGB")), opaque, hundredths)


def _mixable(image: Image.Image) -> Image.Image:
    """The same with colours instead of palette indexes or single bits."""
    if image.mode in {"1", "P"}:
        return image.convert("L" if image.mode == "1" else "RGB")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """The same image, turned as its EXIF says; libheif has turned HEIC and changed its EXIF."""
    with contextlib.suppress(*BROKEN):  # EXIF that cannot be read turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _with_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}:
        return image
    if image.mode[0] in "IF":  # Pillow cuts off at 255; these have to be scaled
        deep = image.convert("F")
        low, high = cast("tuple[float, float]", deep.getextrema())
        if image.mode.startswith("I;16") or (low >= 0 and 255 < high < 65536):
            low, high = 0, 65535
        elif low >= 0 and high <= 255:
            low, high = 0, 255
        scale = 255 / ((high - low) or 1)
        return deep.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _is_opaque(image: Image.Image) -> bool:
    """Every pixel is opaque; many images have an alpha channel without any transparency."""
    if not image.has_transparency_data:
        return True
    alpha = image if image.mode in {"LA", "RGBA"} else image.convert("RGBA")
    return alpha.getchannel("A").getextrema() == (255, 255)


def _is_vp8l(path: Path) -> bool:
    """The WebP is a lossless one (RFC 9649, 2.6), by its first chunk of pixels."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in {b"VP8L", b"VP8 "}:
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _to_srgb(icc: bytes | None) -> Callable[[Image.Image], Image.Image]:
    """Converts RGB pixels from that profile to sRGB, the only colour space of a GIF."""
    if not icc or icc[16:20] != b"RGB ":
        return lambda image: image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return lambda image: image
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, *BROKEN):
        return lambda image: image
    return lambda image: ImageCms.applyTransform(image, transform) or image
