"""The process that decodes and encodes for convert.py: `python -m imageload.convert.worker`.

It gets requests on its standard input and gives answers on its standard output, both JSON behind
its length, and ends when its parent does. Only this file imports Pillow. What becomes what, and
what it costs, is said in convert.py.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import importlib
import io
import json
import math
import os
import select
import signal
import struct
import sys
import threading
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from imageload import errors
from imageload.convert.pool import FRAMES_FACTOR, check_pixels, packed
from imageload.fetch.tempfiles import disk_error

if TYPE_CHECKING:
    from PIL import Image, ImageFile

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
_BROKEN: Final = (  # what Pillow and its plugins raise for files that are not right
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
_ANIMATED: Final = frozenset({"image/webp", "image/avif", "image/gif", "image/apng"})
_LOSSLESS: Final = frozenset({"image/bmp", "image/png", "image/apng", "image/gif", "image/tiff"})
_ICC_SPACES: Final = {"1": b"GRAY", "L": b"GRAY", "LA": b"GRAY", "CMYK": b"CMYK"}
_SAMPLE: Final = 16_384  # pixels that a frame's palette is made of
_MIN_SIDE: Final = 16  # pixels; no picture is made smaller than that
_MAX_JPEG_SIDE: Final = 65_500  # libjpeg's


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing that a library prints gets among the answers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    _limit_memory(int(sys.argv[1]))
    from PIL import Image

    Image.preinit()
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    gc.freeze()
    answers.write(packed({"ready": True}))
    requests = sys.stdin.buffer
    while head := requests.read(4):
        request = json.loads(requests.read(int.from_bytes(head, "big")))
        # The parent kills at the deadline. If it was killed itself, this does, inside a codec too.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1)
        answer = _answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(packed(answer))
        gc.collect()  # Pillow leaves pictures in reference cycles: 190 MB were held after 48 Mpx


def _end_with_parent() -> None:
    """End this process when the other end of its standard input is gone."""
    waiting = select.poll()
    waiting.register(0, 0)  # POLLHUP needs no asking
    waiting.poll()
    os._exit(0)


def _limit_memory(max_memory: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "darwin":  # which refuses, or does not heed it
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = max_memory if hard == resource.RLIM_INFINITY else min(max_memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    with contextlib.suppress(OSError):  # Linux: where memory runs out, this goes before the service
        Path("/proc/self/oom_score_adj").write_text("500")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    name = request["kind"].removeprefix("image/").upper()
    try:
        return _recoded(request)
    except errors.ImageError as error:
        return {"error": error.code, "detail": error.message}
    except MemoryError:
        failure = errors.DownloadError(
            "conversion_failed", f"The {name} image needs more memory than it may have."
        )
    except ImportError as error:
        failure = errors.DownloadError(
            "conversion_failed", f"This service has no decoder for {name}: {error}."
        )
    except _BROKEN as error:
        # Pillow's own have no number; EINVAL is a seek to where a broken file points.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            trouble = disk_error(error)
            return {"error": trouble.code, "detail": trouble.message}
        said = " ".join(str(error).split())[:200] or type(error).__name__
        failure = errors.DownloadError(
            "conversion_failed", f"The {name} image cannot be decoded: {said}."
        )
    except Exception:
        return {"error": "internal_error", "detail": traceback.format_exc()[-8000:]}
    return {"error": failure.code, "detail": failure.message}


def _recoded(request: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image

    path, kind, max_pixels = Path(request["path"]), request["kind"], request["max_pixels"]
    Image.MAX_IMAGE_PIXELS = max_pixels  # for what grows in the decoder, as a GIF's frames can
    file = _File(Path(request["new_path"]), request["max_bytes"])
    try:
        with _opened(path, kind) as picture:
            check_pixels(math.prod(picture.size), max_pixels)
            frames = getattr(picture, "n_frames", 1) if kind in _ANIMATED else 1
            if frames > 1:
                check_pixels(math.prod(picture.size) * frames, FRAMES_FACTOR * max_pixels)
                original: _Still | _Animation = _Animation(picture, kind)
            else:
                original = _still(picture, kind, path)
            if request["verb"] == "shrink":
                return _shrunk(original, file)
            plain = original.plain()
            if answer := file.put(plain):
                return answer
            raise errors.TooLarge(
                f"The image as {plain.type} has {file.length:,} bytes;"
                f" at most {file.max_bytes:,} are taken."
            )
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise errors.DownloadError(
            "too_many_pixels", f"The image has more than {max_pixels:,} pixels."
        ) from None


def _opened(path: Path, kind: str) -> ImageFile.ImageFile:
    # The plugin itself, not Image.open: that goes by a file's major brand, image.sniff by all.
    module, name = _PLUGINS[kind]
    plugin = getattr(importlib.import_module(module), name)
    picture: ImageFile.ImageFile = plugin(path)
    return picture


def _shrunk(original: _Still | _Animation, file: _File) -> dict[str, Any]:
    for encoding in original.leaner():
        if answer := file.put(encoding):
            return answer
    scale, (width, height) = 1.0, original.size
    while True:
        scale *= min(0.9, 0.95 * math.sqrt(file.max_bytes / file.length))
        size = round(width * scale), round(height * scale)
        if min(size) < _MIN_SIDE:
            raise errors.TooLarge(f"No picture of it fits into {file.max_bytes:,} bytes.")
        if answer := file.put(original.smaller(size)):
            return answer


@dataclass(frozen=True, slots=True)
class _Encoding:
    """One way to write an image: `write` does, to what it is given."""

    type: str
    size: tuple[int, int]
    write: Callable[[IO[bytes]], None]


class _File:
    """The new file, as Pillow writes to it. What goes beyond `max_bytes` is counted, not kept."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self._path = path
        self.max_bytes = sys.maxsize if max_bytes is None else max_bytes
        self.length = 0
        self._sha256 = hashlib.sha256()

    def put(self, encoding: _Encoding) -> dict[str, Any] | None:
        """Write this encoding in the place of any before; the answer, or None if too large."""
        self.length = 0
        self._sha256 = hashlib.sha256()
        with self._path.open("wb") as self._file:
            encoding.write(cast("IO[bytes]", self))
        if self.length > self.max_bytes:
            return None
        return {
            "type": encoding.type,
            "width": encoding.size[0],
            "height": encoding.size[1],
            "bytes": self.length,
            "sha256": self._sha256.hexdigest(),
        }

    def write(self, piece: bytes) -> int:
        self.length += len(piece)
        if self.length <= self.max_bytes:
            self._sha256.update(piece)
            self._file.write(piece)
        return len(piece)


# --- Stills --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Still:
    """A picture decoded, upright, of 8 bits a channel, without metadata but for `icc`."""

    image: Image.Image
    icc: bytes | None
    opaque: bool
    lossless: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    def plain(self) -> _Encoding:
        """As it is to be where size does not matter."""
        return _jpeg(self, 92) if self.opaque and not self.lossless else _png(self)

    def leaner(self) -> Iterator[_Encoding]:
        """As it is, in ever fewer bytes."""
        if not self.opaque or (self.lossless and self.image.mode != "CMYK"):
            yield _png(self)
        if self.opaque and max(self.size) <= _MAX_JPEG_SIDE:
            for quality in 90, 85, 75:
                yield _jpeg(self, quality)

    def smaller(self, size: tuple[int, int]) -> _Encoding:
        from PIL.Image import Resampling

        image = self.image
        if image.mode in {"1", "P"}:  # which cannot be mixed
            image = image.convert("L" if image.mode == "1" else "RGB")
        still = replace(self, image=image.resize(size, Resampling.LANCZOS, reducing_gap=3))
        return _jpeg(still, 75) if self.opaque and max(size) <= _MAX_JPEG_SIDE else _png(still)


def _still(picture: ImageFile.ImageFile, kind: str, path: Path) -> _Still:
    picture.load()
    icc = picture.info.get("icc_profile")
    image = _in_eight_bits(_upright(picture))
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
    return _Still(image, icc, opaque, lossless)


def _upright(image: Image.Image) -> Image.Image:
    """The same image, turned as its EXIF says; libheif has turned HEIC already, and says so."""
    from PIL import ImageOps

    with contextlib.suppress(*_BROKEN):  # EXIF that cannot be read turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _in_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}:
        return image
    if image.mode[0] in "IF":  # Pillow cuts these off at 255, where they are to be scaled
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
    """Whether every pixel is: an alpha channel alone tells nothing."""
    if not image.has_transparency_data:
        return True
    alpha = image if image.mode in {"LA", "RGBA"} else image.convert("RGBA")
    return alpha.getchannel("A").getextrema() == (255, 255)


def _is_vp8l(path: Path) -> bool:
    """Whether the WebP's picture is a lossless one (RFC 9649, 2.6), by its first such chunk."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in {b"VP8L", b"VP8 "}:
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _png(still: _Still) -> _Encoding:
    def write(file: IO[bytes]) -> None:
        # Level 3 takes a third of the time of 6, the default, for files within 1 % of its.
        still.image.save(file, "PNG", compress_level=3, icc_profile=still.icc)

    return _Encoding("image/png", still.size, write)


def _jpeg(still: _Still, quality: int) -> _Encoding:
    from PIL import ImageFile

    image = still.image
    if image.mode in {"1", "P"}:
        image = image.convert("L" if image.mode == "1" else "RGB")

    def write(file: IO[bytes]) -> None:
        # Pillow wants room for the whole file at once and takes a byte a pixel to be enough; noise
        # has more, and failed.
        ImageFile.MAXBLOCK = 65536 + 5 * math.prod(image.size)
        image.save(
            file,
            "JPEG",
            quality=quality,
            subsampling="4:4:4" if quality >= 90 else "4:2:0",
            optimize=True,
            progressive=True,
            icc_profile=still.icc,
        )

    return _Encoding("image/jpeg", still.size, write)


# --- Animations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Animation:
    """A picture whose frames are decoded one after the other, anew for every encoding."""

    picture: ImageFile.ImageFile
    kind: str

    @property
    def size(self) -> tuple[int, int]:
        return _upright(self._frame(0)).size

    def plain(self) -> _Encoding:
        """As it is to be where size does not matter."""
        return self._gif(256, self.size)

    def leaner(self) -> Iterator[_Encoding]:
        """As it is, in fewer bytes."""
        yield self._gif(128, self.size)

    def smaller(self, size: tuple[int, int]) -> _Encoding:
        return self._gif(128, size)

    def _gif(self, colors: int, size: tuple[int, int]) -> _Encoding:
        def write(file: IO[bytes]) -> None:
            file.write(b"GIF89a" + struct.pack("<HH", *size))
            _write_frames(file, self._moments(size), colors, self._repeats())
            file.write(b";")

        return _Encoding("image/gif", size, write)

    def _repeats(self) -> int | None:
        """How often it plays again; 0 for ever, None not at all: as GIF has it."""
        loops = self.picture.info.get("loop", None if self.kind == "image/gif" else 0)
        if self.kind == "image/gif" or not loops:
            return loops
        return min(loops - 1, 65535) or None  # WebP and APNG tell how often it plays in all

    def _frame(self, number: int) -> Image.Image:
        self.picture.seek(number)
        return self.picture.copy()

    def _moments(self, size: tuple[int, int]) -> Iterator[_Moment]:
        """The frames of that size, upright and whole, each with its time."""
        from PIL import Image

        to_srgb = _to_srgb(self.picture.info.get("icc_profile"))
        behind = 0.0
        first = 1 if getattr(self.picture, "default_image", False) else 0  # APNG: not in the show
        for number in range(first, getattr(self.picture, "n_frames", 1)):
            frame = _in_eight_bits(_upright(self._frame(number)))
            frame = frame.convert("RGBA" if frame.has_transparency_data else "RGB")
            if frame.size != size:
                frame = frame.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
            solid = Image.new("L", size, 255)
            if frame.mode == "RGBA":
                solid = frame.getchannel("A").point([0] * 128 + [255] * 128)
            # GIF counts hundredths, and browsers show 0 and 1 of them as ten, other formats' too.
            asked = self.picture.info.get("duration") or 0
            behind += asked if asked > 10 else 100
            hundredths = min(max(round(behind / 10), 2), 65535)
            behind = max(behind - 10 * hundredths, -20)
            yield _Moment(to_srgb(frame.convert("RGB")), solid, hundredths)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is seen for a time: the colours, a mask of where there are any, hundredths of a second.

    Masks are of mode L, 255 for yes.
    """

    colors: Image.Image
    solid: Image.Image
    hundredths: int

    def drawn_over(self, shown: _Moment | None) -> Image.Image:
        """The mask of what must be drawn where `shown`, or nothing, is seen."""
        from PIL import ImageChops

        if shown is None:
            return self.solid
        red, green, blue = ImageChops.difference(self.colors, shown.colors).split()
        other = ImageChops.lighter(ImageChops.lighter(red, green), blue).point([0] + [255] * 255)
        new = ImageChops.lighter(other, ImageChops.invert(shown.solid))
        return ImageChops.darker(self.solid, new)

    def hidden_by(self, following: _Moment) -> bool:
        """Whether there is anything here where `following` has nothing."""
        from PIL import ImageChops

        gone = ImageChops.darker(self.solid, ImageChops.invert(following.solid))
        return gone.getbbox() is not None


def _write_frames(
    file: IO[bytes], moments: Iterator[_Moment], colors: int, repeats: int | None
) -> None:
    """All of a GIF between its size and its end, with no more than three frames in memory.

    Each frame draws only what changes; where something has to go, the frame before it is taken
    away first, whole.
    """
    shown: _Moment | None = None
    moment: _Moment | None = next(moments)
    header = False
    while moment:
        following = next(moments, None)
        clear = False
        if following:
            hundredths = moment.hundredths + following.hundredths
            clear = moment.hidden_by(following)
            if not clear and hundredths <= 65535 and not following.drawn_over(moment).getbbox():
                moment = replace(moment, hundredths=hundredths)
                continue
        image, box, hole = _drawing(moment, shown, colors, whole=clear or not header)
        if not header:
            file.write(_gif_header(image, repeats))
        options = {} if hole is None else {"transparency": hole}
        options |= {"disposal": 2 if clear else 1, "duration": moment.hundredths * 10}
        _write_image(file, image, box[:2], {**options, "include_color_table": header})
        header = True
        shown, moment = None if clear else moment, following


def _drawing(
    moment: _Moment, shown: _Moment | None, colors: int, *, whole: bool
) -> tuple[Image.Image, tuple[int, int, int, int], int | None]:
    """The part of `moment` to draw over `shown`, in a palette; where; its transparent index."""
    from PIL import ImageChops

    mask = moment.drawn_over(shown)
    box = (0, 0, *mask.size) if whole else mask.getbbox() or (0, 0, 1, 1)
    part, holes = moment.colors.crop(box), ImageChops.invert(mask.crop(box))
    if not holes.getbbox():
        return _in_palette(part, colors), box, None
    part.paste((0, 0, 0), mask=holes)  # so that they take no colours from the others
    image = _in_palette(part, colors - 1)
    palette = image.getpalette() or []
    image.putpalette([*palette, 0, 0, 0])
    hole = len(palette) // 3
    image.paste(hole, mask=holes)
    return image, box, hole


def _in_palette(part: Image.Image, colors: int) -> Image.Image:
    """The same in at most so many colours, exact where it has no more; without dithering.

    Dither would flicker, and double the file. The colours are those of a sample: all of the pixels
    take 5 to 8 times as long, for an error (RMS) that is 5 to 10 % lower.
    """
    from PIL import Image

    pixels = math.prod(part.size)
    if pixels <= _SAMPLE or part.getcolors(colors):
        return part.quantize(colors)
    step = math.sqrt(pixels / _SAMPLE)
    size = max(1, round(part.width / step)), max(1, round(part.height / step))
    sample = part.resize(size, Image.Resampling.NEAREST)
    return part.quantize(palette=sample.quantize(colors), dither=Image.Dither.NONE)


def _gif_header(first: Image.Image, repeats: int | None) -> bytes:
    """The rest of the screen's description, the first palette, and how often it plays again."""
    palette = bytes(first.getpalette() or [])
    bits = max((len(palette) // 3 - 1).bit_length(), 1)
    screen = bytes((0x80 | (bits - 1), 0, 0)) + palette.ljust(3 << bits, b"\0")
    if repeats is None:
        return screen
    return screen + b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", repeats) + b"\0"


def _write_image(
    file: IO[bytes], image: Image.Image, at: tuple[int, int], options: dict[str, Any]
) -> None:
    from PIL.GifImagePlugin import getdata

    for piece in getdata(image, at, **options):
        file.write(piece)


def _to_srgb(icc: bytes | None) -> Callable[[Image.Image], Image.Image]:
    """What brings RGB pixels from that profile to sRGB, which is all that a GIF's can be."""
    if not icc or icc[16:20] != b"RGB ":
        return lambda image: image
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return lambda image: image
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, *_BROKEN):
        return lambda image: image
    return lambda image: ImageCms.applyTransform(image, transform) or image


if __name__ == "__main__":
    _main()
