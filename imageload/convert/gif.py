"""Encodes the frames of an animation as a GIF, with at most three of them in memory.

Only the pixels that change are drawn. Pillow's own GIF writer keeps all frames in memory and writes
up to 4.6 times the bytes (docs/decisions/gif.md).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata

_SAMPLE: Final = 16_384  # pixels that a frame's palette is computed from
_MAX_HUNDREDTHS: Final = 65_535


@dataclass(frozen=True, slots=True)
class Frame:
    """RGB colours, the mask of opaque pixels, and a duration in hundredths of a second.

    Masks have mode L: 255 for yes, 0 for no.
    """

    colors: Image.Image
    opaque: Image.Image
    hundredths: int

    def changes_from(self, shown: Frame | None) -> Image.Image:
        """The mask of the pixels to draw over `shown`, or over nothing."""
        if shown is None:
            return self.opaque
        red, green, blue = ImageChops.difference(self.colors, shown.colors).split()
        other = ImageChops.lighter(ImageChops.lighter(red, green), blue).point([0] + [255] * 255)
        new = ImageChops.lighter(other, ImageChops.invert(shown.opaque))
        return ImageChops.darker(self.opaque, new)

    def has_pixels_missing_in(self, following: Frame) -> bool:
        """Some pixel is opaque here and transparent in `following`."""
        gone = ImageChops.darker(self.opaque, ImageChops.invert(following.opaque))
        return gone.getbbox() is not None


def write_gif(
    file: IO[bytes], frames: Iterator[Frame], *, colors: int, repeats: int | None
) -> None:
    """Write `frames`, all of one size, with a palette of `colors` each.

    `repeats`: how often the animation plays again; 0 is for ever, None is not at all. A frame that
    changes nothing lengthens the one before. If a pixel becomes transparent, the frame before is
    cleared first.
    """
    shown: Frame | None = None
    frame: Frame | None = next(frames)
    is_first = True
    while frame:
        following = next(frames, None)
        clear = False
        if following:
            hundredths = frame.hundredths + following.hundredths
            clear = frame.has_pixels_missing_in(following)
            is_same = not clear and not following.changes_from(frame).getbbox()
            if is_same and hundredths <= _MAX_HUNDREDTHS:
                frame = replace(frame, hundredths=hundredths)
                continue
        image, offset, transparent = _drawing(frame, shown, colors, whole=clear or is_first)
        if is_first:
            file.write(_header(frame.colors.size, image, repeats))
        options: dict[str, Any] = {
            "disposal": 2 if clear else 1,
            "duration": frame.hundredths * 10,
            "include_color_table": not is_first,
        }
        if transparent is not None:
            options["transparency"] = transparent
        for block in getdata(image, offset, **options):
            file.write(block)
        is_first, shown, frame = False, None if clear else frame, following
    file.write(b";")


def _drawing(
    frame: Frame, shown: Frame | None, colors: int, *, whole: bool
) -> tuple[Image.Image, tuple[int, int], int | None]:
    """The part of `frame` to draw over `shown`, with its offset and transparent palette index."""
    mask = frame.changes_from(shown)
    box = (0, 0, *mask.size) if whole else mask.getbbox() or (0, 0, 1, 1)
    part, holes = frame.colors.crop(box), ImageChops.invert(mask.crop(box))
    if not holes.getbbox():
        return _with_palette(part, colors), box[:2], None
    part.paste((0, 0, 0), mask=holes)  # hidden colours take no place in the palette
    image = _with_palette(part, colors - 1)
    palette = image.getpalette() or []
    image.putpalette([*palette, 0, 0, 0])
    transparent = len(palette) // 3
    image.paste(transparent, mask=holes)
    return image, box[:2], transparent


def _with_palette(part: Image.Image, colors: int) -> Image.Image:
    """The same in at most `colors` colours, exact if it has no more; without dithering.

    Dithering would flicker and double the file. The palette is that of a sample: one of all pixels
    takes 5 to 8 times as long, for an error (RMS) that is 5 to 10 % lower.
    """
    pixels = math.prod(part.size)
    if pixels <= _SAMPLE or part.getcolors(colors):
        return part.quantize(colors)
    step = math.sqrt(pixels / _SAMPLE)
    size = max(1, round(part.width / step)), max(1, round(part.height / step))
    sample = part.resize(size, Image.Resampling.NEAREST)
    return part.quantize(palette=sample.quantize(colors), dither=Image.Dither.NONE)


def _header(size: tuple[int, int], first: Image.Image, repeats: int | None) -> bytes:
    """The file up to the first frame: signature, size, global palette, loop count (GIF89a)."""
    palette = bytes(first.getpalette() or [])
    bits = max((len(palette) // 3 - 1).bit_length(), 1)
    screen = b"GIF89a" + struct.pack("<HH", *size) + bytes((0x80 | (bits - 1), 0, 0))
    screen += palette.ljust(3 << bits, b"\0")
    if repeats is None:
        return screen
    return screen + b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", repeats) + b"\0"
