"""Tests of convert.pool: images become types that Imgur accepts, upright, in their colours and
without metadata; a bad image fails alone.

A named pipe without a writer is an image that takes for ever to read. Opening it for writing
returns when a worker has begun to read.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from msgspec.structs import replace
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageOps, ImageStat

from imageload import errors
from imageload.convert.picture import FRAMES_FACTOR
from imageload.convert.pool import NEEDS, ConversionRules
from imageload.fetch.sniff import ImageHeader, read_header
from tests.conversions import Converted, Converter
from tests.raising import raises_error
from tests.test_image import EXPECTED, IMAGES
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parent.parent
LINUX = sys.platform == "linux"
UNREADABLE = "bmp-os2-v2-short.bmp"  # Pillow's decoder does not know its 16-byte header
FOREIGN = sorted(name for name in EXPECTED if EXPECTED[name][0] in NEEDS and name != UNREADABLE)
ANIMATED = {"avif-sequence.avif", "webp-animated.webp"}
WITH_ALPHA = {"avif-alpha.avif", "heic-alpha.heic", "webp-extended-alpha.webp"}
TURNED = {"avif-rotated.avif"}
STILLS = [name for name in FOREIGN if name not in ANIMATED]


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    converter = Converter()
    yield converter
    converter.close()


def wanted_type(name: str) -> str:
    if name in ANIMATED:
        return "image/gif"
    lossless = name in WITH_ALPHA or name.endswith(".bmp") or name == "webp-lossless-vp8l.webp"
    return "image/png" if lossless else "image/jpeg"


def copied(name: str, folder: Path) -> Path:
    """Copy the fixture to an empty folder."""
    return Path(shutil.copy(IMAGES / name, folder / name))


def written(folder: Path, image: Image.Image, kind: str, **options: Any) -> Path:
    path = folder / f"image.{kind.lower()}"
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(path, **options)
    else:
        image.save(path, kind, **options)
    return path


def decoded(path: Path) -> Image.Image:
    """The picture as Pillow or pillow-heif itself decodes it, in this process."""
    if path.suffix in {".heic", ".heif"}:
        image = pillow_heif.open_heif(path).to_pillow()
    else:
        with Image.open(path) as image:
            image.load()
    return ImageOps.exif_transpose(image)


def opened(converted: Converted) -> Image.Image:
    with Image.open(converted.path) as image:
        image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """The root mean square over all channels of how two pictures differ, of 255."""
    assert one.size == other.size
    pair = [image.convert("RGBA") for image in (one, other)]
    return max(ImageStat.Stat(ImageChops.difference(*pair)).rms)


def quarters(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An image whose corners show its orientation."""
    image = Image.new("RGB", size, "white")
    width, height = size[0] // 2, size[1] // 2
    image.paste("red", (0, 0, width, height))
    image.paste("lime", (width, 0, size[0], height))
    image.paste("blue", (0, height, width, size[1]))
    return image


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    generator = random.Random(1)
    return Image.frombytes(mode, size, generator.randbytes(size[0] * size[1] * len(mode)))


def metadata() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "the garden at home"
    exif[0x8825] = {1: "N", 2: (59.0, 26.0, 7.0), 3: "E", 4: (24.0, 44.0, 43.0)}
    return exif


# --- Types and pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGN)
def test_a_real_image_becomes_a_type_that_imgur_accepts(
    name: str, converter: Converter, tmp_path: Path
) -> None:
    kind, width, height = EXPECTED[name]
    path = copied(name, tmp_path)
    converted = converter.convert(path, kind)
    size = (height, width) if name in TURNED else (width, height)
    assert (converted.type, converted.width, converted.height) == (wanted_type(name), *size)
    assert read_header(converted.path) == ImageHeader(converted.type, *size)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == (IMAGES / name).read_bytes()


@pytest.mark.parametrize("name", STILLS)
def test_the_pixels_of_a_still_are_those_that_pillow_decodes(
    name: str, converter: Converter, tmp_path: Path
) -> None:
    path = copied(name, tmp_path)
    converted = converter.convert(path, EXPECTED[name][0])
    error = difference(opened(converted), decoded(path))
    assert error == 0 if converted.type == "image/png" else error < 5


def test_the_report_has_the_new_files_length_and_hash(converter: Converter, tmp_path: Path) -> None:
    converted = converter.convert(copied("bmp-1-bit.bmp", tmp_path), "image/bmp")
    content = converted.path.read_bytes()
    assert converted.bytes == len(content)
    assert converted.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
def test_an_alpha_channel_without_transparency_is_none(
    kind: str, converter: Converter, tmp_path: Path
) -> None:
    path = written(tmp_path, quarters().convert("RGBA"), kind, quality=80)
    assert converter.convert(path, as_sniffed(path)).type == "image/jpeg"


def as_sniffed(path: Path) -> str:
    header = read_header(path)
    assert header
    return header.type


def test_hidden_colours_of_a_lossless_webp_are_kept(converter: Converter, tmp_path: Path) -> None:
    image = noise((50, 40), "RGBA")
    path = written(tmp_path, image, "WEBP", lossless=True, exact=True)
    assert opened(converter.convert(path, "image/webp")).tobytes() == image.tobytes()


def test_noise_which_has_more_bytes_than_pixels_becomes_a_jpeg(
    converter: Converter, tmp_path: Path
) -> None:
    path = written(tmp_path, noise((700, 500)), "WEBP", quality=100, method=0)
    converted = converter.convert(path, "image/webp")
    assert converted.type == "image/jpeg"
    assert converted.bytes > 350_000


# --- Orientation, colours, metadata --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_converted_to_upright(
    kind: str, orientation: int, converter: Converter, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(with_exif(quarters(), exif))
    path = written(tmp_path, quarters(), kind, quality=90, exif=exif.tobytes())
    result = opened(converter.convert(path, as_sniffed(path)))
    assert difference(result, upright) < 25  # a wrong turn has more than 100
    assert 0x0112 not in result.getexif()


def with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    image.info["exif"] = exif.tobytes()
    return image


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_colour_profile_is_kept_and_all_other_metadata_removed(
    kind: str, mode: str, converter: Converter, tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = quarters()
    if mode == "RGBA":
        image.putalpha(100)
    options: dict[str, Any] = {"exif": metadata().tobytes(), "xmp": b"<x:xmpmeta>home</x:xmpmeta>"}
    path = written(tmp_path, image, kind, quality=90, icc_profile=profile, **options)
    assert b"garden" in path.read_bytes()
    converted = converter.convert(path, as_sniffed(path))
    result = opened(converted)
    assert converted.type == ("image/png" if mode == "RGBA" else "image/jpeg")
    assert result.info["icc_profile"] == profile
    assert not result.getexif()
    assert not {"exif", "xmp", "comment"} & result.info.keys()
    assert not [word for word in (b"garden", b"home") if word in converted.path.read_bytes()]


def test_a_profile_of_colours_makes_a_grey_picture_one_of_colours(
    converter: Converter, tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = written(tmp_path, quarters().convert("L"), "AVIF", icc_profile=profile)
    result = opened(converter.convert(path, "image/avif"))
    assert (result.mode, result.info["icc_profile"]) == ("RGB", profile)


def test_broken_exif_turns_nothing(converter: Converter, tmp_path: Path) -> None:
    path = written(tmp_path, quarters(), "WEBP", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert difference(opened(converter.convert(path, "image/webp")), quarters()) < 25


def test_sixteen_bits_are_scaled_to_eight(converter: Converter, tmp_path: Path) -> None:
    path = copied("tiff-big-endian.tif", tmp_path)
    result = opened(converter.shrink(path, "image/tiff", 10**6)).tobytes()
    source = struct.unpack(f"={len(result)}i", decoded(path).convert("I").tobytes())
    assert max(source) > 255
    assert max(abs(new - old / 257) for new, old in zip(result, source, strict=True)) <= 1


# --- Animations ----------------------------------------------------------------------------------


def sprites(count: int, mode: str) -> list[Image.Image]:
    """Something that moves over something that stays; with gaps, if there is an alpha channel."""
    frames = []
    for number in range(count):
        frame = Image.new(mode, (80, 60), (0, 0, 0, 0) if mode == "RGBA" else "navy")
        draw = ImageDraw.Draw(frame)
        draw.rectangle((5, 40, 75, 55), "orange")
        draw.ellipse((number * 9, 5, number * 9 + 20, 25), "lime", "white")
        frames.append(frame)
    return frames


def frames_of(path: Path) -> tuple[list[Image.Image], list[int], int | None]:
    """The frames as a browser shows them, their milliseconds, and the loop count."""
    frames, times = [], []
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(image.convert("RGBA"))
            times.append(image.info.get("duration", 0))
        return frames, times, image.info.get("loop")


def visible(image: Image.Image) -> Image.Image:
    """The same over magenta, so that hidden colours do not count."""
    ground = Image.new("RGBA", image.size, "magenta")
    ground.alpha_composite(image.convert("RGBA"))
    return ground


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animated_webp_keeps_frames_times_and_loops(
    mode: str, converter: Converter, tmp_path: Path
) -> None:
    sources, asked = sprites(6, mode), [40, 100, 70, 250, 1000, 30]
    options = {"lossless": True, "save_all": True, "append_images": sources[1:], "loop": 3}
    path = written(tmp_path, sources[0], "WEBP", duration=asked, **options)
    frames, times, loop = frames_of(converter.convert(path, "image/webp").path)
    assert times == asked
    assert loop == 2  # again, after the first
    assert [difference(visible(a), visible(b)) for a, b in zip(frames, sources, strict=True)] == [
        0
    ] * 6


@pytest.mark.parametrize(("loops", "repeats"), [(0, 0), (1, None), (2, 1)])
def test_webp_counts_how_often_it_plays_and_gif_how_often_again(
    loops: int, repeats: int | None, converter: Converter, tmp_path: Path
) -> None:
    sources = sprites(2, "RGB")
    options = {"save_all": True, "append_images": sources[1:], "loop": loops}
    path = written(tmp_path, sources[0], "WEBP", duration=50, **options)
    assert frames_of(converter.convert(path, "image/webp").path)[2] == repeats


def test_times_between_hundredths_do_not_add_up(converter: Converter, tmp_path: Path) -> None:
    sources = sprites(7, "RGB")
    options = {"save_all": True, "append_images": sources[1:]}
    path = written(tmp_path, sources[0], "WEBP", duration=33, **options)
    times = frames_of(converter.convert(path, "image/webp").path)[1]
    assert set(times) == {30, 40}
    assert sum(times) == 230  # of 231


def test_frame_times_that_browsers_ignore_become_the_times_they_use(
    converter: Converter, tmp_path: Path
) -> None:
    path = copied("webp-animated.webp", tmp_path)
    assert frames_of(path)[1] == [0] * 5
    assert frames_of(converter.convert(path, "image/webp").path)[1] == [100] * 5


def test_a_frame_that_changes_nothing_only_lengthens_the_one_before(
    converter: Converter, tmp_path: Path
) -> None:
    first, second = sprites(2, "RGBA")
    options = {"lossless": True, "save_all": True, "append_images": [first.copy(), second]}
    path = written(tmp_path, first, "PNG", duration=[50, 60, 70], **options)
    frames, times, _ = frames_of(converter.shrink(path, "image/apng", 10**6).path)
    assert (len(frames), times) == (2, [110, 70])


@pytest.mark.parametrize("name", sorted(ANIMATED))
def test_the_frames_of_a_real_animation_look_as_they_did(
    name: str, converter: Converter, tmp_path: Path
) -> None:
    path = copied(name, tmp_path)
    sources, times, _ = frames_of(path)
    frames, new_times, loop = frames_of(converter.convert(path, EXPECTED[name][0]).path)
    assert len(frames) == len(sources)
    if any(times):
        assert new_times == times
    assert loop == 0
    for frame, source in zip(frames, sources, strict=True):
        hard = source.getchannel("A").point([0] * 128 + [255] * 128)
        source.putalpha(hard)
        assert difference(visible(frame), visible(source)) < 6


def test_a_gif_in_another_colour_space_is_brought_to_srgb(
    converter: Converter, tmp_path: Path
) -> None:
    linear = wide_profile()
    sources = [Image.new("RGB", (40, 30), color) for color in ((100, 200, 60), (200, 60, 100))]
    options = {"lossless": True, "save_all": True, "append_images": sources[1:]}
    path = written(tmp_path, sources[0], "WEBP", duration=90, icc_profile=linear, **options)
    frames = frames_of(converter.convert(path, "image/webp").path)[0]
    srgb = ImageCms.createProfile("sRGB")
    for frame, source in zip(frames, sources, strict=True):
        right = ImageCms.profileToProfile(source, io.BytesIO(linear), srgb, outputMode="RGB")
        assert right is not None
        assert difference(frame, right) < 2
        assert difference(frame, source) > 5


def wide_profile() -> bytes:
    """An ICC profile (version 2) with the primaries of Display P3, for D50, and gamma 2.2."""

    def tag(kind: bytes, content: bytes) -> bytes:
        body = kind + bytes(4) + content
        return body + bytes(-len(body) % 4)

    def xyz(*values: float) -> bytes:
        return tag(b"XYZ ", struct.pack(">3i", *(round(value * 65536) for value in values)))

    text = b"wide\0"
    curve = tag(b"curv", struct.pack(">IH", 1, round(2.2 * 256)))
    description = struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67)
    tags = {
        b"desc": tag(b"desc", description),
        b"cprt": tag(b"text", b"none\0"),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(bodies), len(body))
        bodies += body
    head = struct.pack(">I4xI4s4s4s", 0, 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    profile = head + table + bodies
    return struct.pack(">I", len(profile)) + profile[4:]


# --- Too much ------------------------------------------------------------------------------------


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + bytes(8) + struct.pack("<IIiiHH", 54, 40, width, height, 1, 24) + bytes(24)


def webp_header(width: int, height: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.skipif(not LINUX, reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "content"),
    [("image/bmp", bmp_header(60_000, 60_000)), ("image/webp", webp_header(16_000, 16_000))],
)
def test_a_worker_rejects_a_pixel_bomb_without_using_memory(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(content)
    converter = Converter(workers=1)
    with pytest.raises(errors.DownloadError) as caught:
        converter.ask(path, kind)
    assert caught.value.code in ("too_many_pixels", "conversion_failed")
    (worker,) = converter.pids()
    peak = next(
        line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if "VmHWM" in line
    )
    assert int(peak.split()[1]) < 64 * 1024
    converter.close()


@pytest.mark.skipif(not LINUX, reason="needs RLIMIT_DATA")
def test_memory_has_a_limit_that_ends_one_image(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    path.write_bytes(bmp_header(30_000, 30_000))
    converter = Converter(workers=1)
    with raises_error("conversion_failed", match="more memory than it may have"):
        converter.ask(path, "image/bmp", max_pixels=10**9, max_memory=2**29)
    workers = converter.pids()
    converter.convert(copied("bmp-rle.bmp", tmp_path), "image/bmp")
    assert converter.pids() == workers
    converter.close()


def test_the_frames_of_an_animation_count_together(tmp_path: Path) -> None:
    sources = sprites(FRAMES_FACTOR + 1, "RGB")
    converter = Converter(max_pixels=80 * 60)
    options = {"save_all": True, "duration": 50}
    within = written(tmp_path, sources[0], "WEBP", append_images=sources[1:-1], **options)
    assert converter.convert(within, "image/webp").type == "image/gif"
    beyond = written(tmp_path, sources[0], "WEBP", append_images=sources[1:], **options)
    with raises_error("too_many_pixels", match=r"24,000 pixels; at most 19,200"):
        converter.convert(beyond, "image/webp")
    converter.close()


def test_a_result_past_the_limit_is_too_large(converter: Converter, tmp_path: Path) -> None:
    path = copied("webp-lossless-vp8l.webp", tmp_path)
    with pytest.raises(errors.TooLarge, match=r"as image/png has 12,\d+ bytes; at most 5,000"):
        converter.convert(path, "image/webp", max_bytes=5000)
    assert [*tmp_path.iterdir()] == [path]
    size = converter.convert(path, "image/webp").bytes
    assert converter.convert(path, "image/webp", max_bytes=size).bytes == size


# --- Shrinking -----------------------------------------------------------------------------------

SHRINKABLE = sorted(
    name
    for name in EXPECTED
    if name != UNREADABLE
    and name
    not in {"truncated.png", "jpeg-progressive-cut-short.jpg", "jpeg-ultrahdr-gain-map.jpg"}
)


@pytest.mark.parametrize("name", SHRINKABLE)
def test_any_image_is_shrunk_to_the_limit_or_is_too_large(
    name: str, converter: Converter, tmp_path: Path
) -> None:
    path = copied(name, tmp_path)
    try:
        converted = converter.shrink(path, EXPECTED[name][0], 2000)
    except errors.TooLarge:
        assert EXPECTED[name][0] in {"image/gif", "image/webp", "image/avif", "image/heic"}
        assert [*tmp_path.iterdir()] == [path]
    else:
        assert converted.path.stat().st_size == converted.bytes <= 2000
        header = ImageHeader(converted.type, converted.width, converted.height)
        assert read_header(converted.path) == header


def test_the_quality_of_a_photo_is_reduced_before_its_size(
    converter: Converter, tmp_path: Path
) -> None:
    image = Image.effect_noise((400, 300), 60).convert("RGB")
    path = written(tmp_path, image, "PNG")
    whole = path.stat().st_size
    first = converter.shrink(path, "image/png", whole // 2)
    assert (first.type, first.width, first.height) == ("image/jpeg", 400, 300)
    second = converter.shrink(path, "image/png", whole // 20)
    assert second.width < 400
    assert abs(second.width / second.height - 4 / 3) < 0.02


def test_transparency_survives_shrinking(converter: Converter, tmp_path: Path) -> None:
    path = written(tmp_path, noise((200, 100), "RGBA"), "PNG")
    converted = converter.shrink(path, "image/png", 20_000)
    assert converted.type == "image/png"
    assert opened(converted).mode == "RGBA"


def test_an_animation_is_shrunk_with_all_its_frames(converter: Converter, tmp_path: Path) -> None:
    sources = [noise((120, 90)).rotate(90 * turn) for turn in range(4)]
    options = {"save_all": True, "append_images": sources[1:], "duration": 80, "loop": 0}
    path = written(tmp_path, sources[0], "GIF", **options)
    converted = converter.shrink(path, "image/gif", path.stat().st_size // 3)
    frames, times, loop = frames_of(converted.path)
    assert (len(frames), times, loop) == (4, [80] * 4, 0)
    assert 30 < converted.width < 120


def test_shrinking_turns_a_picture_and_drops_its_metadata(
    converter: Converter, tmp_path: Path
) -> None:
    exif = metadata()
    exif[0x0112] = 6
    path = written(tmp_path, quarters(), "JPEG", exif=exif.tobytes(), comment=b"home")
    converted = converter.shrink(path, "image/jpeg", 10**6)
    assert (converted.width, converted.height) == (64, 96)
    result = opened(converted)
    assert difference(result, ImageOps.exif_transpose(with_exif(quarters(), exif))) < 25
    assert not result.getexif()
    assert "comment" not in result.info


# --- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGN)
def test_an_image_cut_short_fails_and_leaves_no_file(
    name: str, converter: Converter, tmp_path: Path
) -> None:
    content = (IMAGES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) // 2])
    with raises_error("conversion_failed", match="cannot be decoded"):
        converter.convert(path, EXPECTED[name][0])
    assert [*tmp_path.iterdir()] == [path]


def test_an_image_that_pillow_cannot_read_fails(converter: Converter, tmp_path: Path) -> None:
    with raises_error("conversion_failed", match="Unsupported BMP header"):
        converter.convert(copied(UNREADABLE, tmp_path), "image/bmp")


def test_a_missing_file_is_a_disk_error(converter: Converter) -> None:
    report = converter.report(IMAGES / "webp-lossy-vp8.webp", "image/webp")
    Path(report.temp_fn).unlink()
    with raises_error("disk_error"):
        converter.run(converter.converters.if_needed(report, "job"))


@pytest.mark.skipif(not LINUX, reason="needs /dev/full")
def test_a_full_disk_is_reported_as_such(converter: Converter) -> None:
    with pytest.raises(errors.DiskFull):
        converter.ask(IMAGES / "bmp-rle.bmp", "image/bmp", new_path="/dev/full")


class Endless:
    """An image that a worker converts for as long as the worker lives; `pid` is the worker's."""

    def __init__(self, converter: Converter, key: str = "endless", side: int | None = None) -> None:
        report = converter.endless(side)
        before = {*converter.pids()}
        before -= {worker.pid for worker in converter.converters._workers._idle}
        self.outcome = converter.submit(converter.converters.if_needed(report, key))
        self._writer = os.open(report.temp_fn, os.O_WRONLY)  # returns when a worker reads it
        idle = {worker.pid for worker in converter.converters._workers._idle}
        (self.pid,) = {*converter.pids()} - before - idle

    def error(self) -> BaseException | None:
        try:
            return self.outcome.exception(PATIENCE)
        finally:
            os.close(self._writer)


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crash")]
)
def test_a_crash_ends_one_image_and_the_next_one_works(
    number: int, word: str, tmp_path: Path
) -> None:
    converter = Converter(workers=1)
    endless = Endless(converter)
    os.kill(endless.pid, number)
    error = endless.error()
    assert isinstance(error, errors.DownloadError)
    assert error.code == "conversion_failed"
    assert word in error.message
    converter.convert(copied("webp-lossy-vp8.webp", tmp_path), "image/webp")
    assert converter.pids() != [endless.pid]
    converter.close()


def test_an_idle_worker_that_ended_is_replaced(tmp_path: Path) -> None:
    converter = Converter(workers=1)
    path = copied("webp-lossy-vp8.webp", tmp_path)
    converter.convert(path, "image/webp")
    (worker,) = converter.converters._workers._all
    converter.run(worker.end())
    converter.convert(path, "image/webp")
    assert converter.pids() != [worker.pid]
    converter.close()


def test_a_conversion_past_its_deadline_is_killed() -> None:
    converter = Converter(workers=1, seconds=1.5)
    endless = Endless(converter)
    error = endless.error()
    assert isinstance(error, errors.DownloadError)
    assert error.code == "conversion_failed"
    assert "longer than 1.5 seconds" in error.message
    assert converter.pids() == []
    assert ended(endless.pid)
    converter.close()


def ended(pid: int) -> bool:
    """Whether there is no process of that number, nor its zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_without_a_process_there_is_a_resource_error_and_no_slot_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = Converter(workers=1)
    path = copied("webp-lossy-vp8.webp", tmp_path)
    for program in ("/nonexistent/python", "/bin/false"):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", program)
            with pytest.raises(errors.ResourceError):
                converter.convert(path, "image/webp")
    assert [*tmp_path.iterdir()] == [path]
    assert converter.convert(path, "image/webp").type == "image/jpeg"
    converter.close()


# --- Threads, processes, the end -----------------------------------------------------------------


def test_many_images_share_two_warm_workers() -> None:
    converter = Converter(workers=2)
    names = [FOREIGN[number % len(FOREIGN)] for number in range(48)]
    reports = [converter.report(IMAGES / name, EXPECTED[name][0]) for name in names]
    futures = [
        converter.submit(converter.converters.if_needed(report, number % 3))
        for number, report in enumerate(reports)
    ]
    kinds = [future.result(PATIENCE).type for future in futures]
    assert kinds == [wanted_type(name) for name in names]
    assert len(converter.pids()) == 2
    assert len(converter.clocked) == 48
    assert converter.converters.pool == (2, 0, 0)
    pids = converter.pids()
    converter.close()
    assert all(ended(pid) for pid in pids)


def test_close_ends_running_and_queued_conversions_and_every_process(tmp_path: Path) -> None:
    converter = Converter(workers=1, seconds=600)  # longer than a test may take
    endless = Endless(converter)
    path = copied("webp-lossy-vp8.webp", tmp_path)
    report = converter.report(path, "image/webp")
    waiting = converter.submit(converter.converters.if_needed(report, "other"))
    converter.run(converter.converters.close())
    assert isinstance(waiting.exception(PATIENCE), errors.Shutdown)
    assert isinstance(endless.error(), errors.Shutdown)
    assert ended(endless.pid)
    assert converter.files.in_use == 0
    with pytest.raises(errors.Shutdown):
        converter.convert(path, "image/webp")
    converter.close()


def test_an_image_that_imgur_accepts_is_not_converted(converter: Converter) -> None:
    report = converter.report(IMAGES / "truncated.png", "image/png")
    assert converter.run(converter.converters.if_needed(report, "job")) is report
    converter.files.give_back(report.temp_fn, report.bytes)


@pytest.mark.parametrize(
    ("rules", "name", "kind"),
    [
        (ConversionRules(convert=False), "unsupported_type", "image/webp"),
        (ConversionRules(max_bytes=1_000), "too_large", "image/png"),
    ],
)
def test_an_image_that_may_not_be_converted_is_refused_without_a_worker(
    rules: ConversionRules, name: str, kind: str
) -> None:
    converter = Converter()
    converter.converters._rules = rules
    report = converter.report(IMAGES / "webp-lossy-vp8.webp", kind)
    with raises_error(name):
        converter.run(converter.converters.if_needed(report, "job"))
    assert (converter.pids(), converter.files.in_use) == ([], 0)
    converter.close()


def test_a_cancelled_conversion_ends_at_once_and_releases_its_files(
    tmp_path: Path,
) -> None:
    converter = Converter(workers=1, seconds=600)
    endless = Endless(converter)
    report = converter.report(copied("webp-lossy-vp8.webp", tmp_path), "image/webp")
    queued = converter.submit(converter.converters.if_needed(report, "queued"))
    other = converter.submit(converter.converters.if_needed(converter.endless(), "large"))
    while converter.converters.pool != (1, 1, 2):
        pass
    for future in (queued, other, endless.outcome):
        future.cancel()
    while converter.files.in_use > 0:
        assert converter.pids() in ([endless.pid], [])
    path = copied("bmp-rle.bmp", tmp_path)
    assert converter.convert(path, "image/bmp").type == "image/png"
    assert ended(endless.pid)
    assert converter.files.in_use == 1
    assert converter.converters.pool == (1, 0, 0)
    converter.close()


def test_images_are_converted_together_while_their_memory_fits(tmp_path: Path) -> None:
    converter = Converter(workers=3, max_memory=200 * 2**20)
    memory = converter.converters.memory
    first, second = Endless(converter, "a", side=64), Endless(converter, "b", side=64)
    assert memory.reserved > 128 * 2**20
    path = copied("bmp-rle.bmp", tmp_path)
    waiting = converter.submit(
        converter.converters.if_needed(converter.report(path, "image/bmp"), "c")
    )
    wait_until(lambda: memory.waiting == 1)
    assert converter.converters.pool == (3, 3, 0)
    os.kill(first.pid, signal.SIGSEGV)
    assert waiting.result(PATIENCE).type == "image/png"
    os.kill(second.pid, signal.SIGSEGV)
    assert first.error()
    assert second.error()
    assert (memory.reserved, memory.waiting) == (0, 0)
    converter.close()


def test_an_image_of_unknown_size_is_converted_alone(tmp_path: Path) -> None:
    converter = Converter()
    endless = Endless(converter)
    assert converter.converters.memory.reserved == 2**30
    path = copied("bmp-rle.bmp", tmp_path)
    waiting = converter.submit(
        converter.converters.if_needed(converter.report(path, "image/bmp"), "other")
    )
    wait_until(lambda: converter.converters.memory.waiting == 1)
    os.kill(endless.pid, signal.SIGSEGV)
    assert waiting.result(PATIENCE).type == "image/png"
    assert endless.error()
    converter.close()


def test_an_image_that_never_fits_into_memory_fails_without_a_worker(tmp_path: Path) -> None:
    converter = Converter(max_memory=128 * 2**20)
    report = converter.report(copied("bmp-rle.bmp", tmp_path), "image/bmp")
    with raises_error("too_many_pixels", match="4,000,000 pixels, .* 134,217,728 are allowed"):
        converter.run(
            converter.converters.if_needed(replace(report, width=2_000, height=2_000), "job")
        )
    assert converter.pids() == []
    assert converter.files.in_use == 0
    converter.close()


@pytest.mark.skipif(not LINUX, reason="needs RLIMIT_DATA")
def test_an_image_that_needs_more_than_its_header_says_gets_all_memory_once(tmp_path: Path) -> None:
    path = written(tmp_path, Image.new("RGB", (4_000, 3_500)), "BMP")
    converter = Converter(workers=1)
    report = converter.report(path, "image/bmp")
    lying = replace(report, width=8, height=8, bytes=100)
    converted = converter.run(converter.converters.if_needed(lying, "job"))
    assert (converted.width, converted.height) == (4_000, 3_500)
    assert len(converter.clocked) == 1
    assert len(converter.pids()) == 1, "the worker lives on"
    converter.close()


def test_an_image_whose_decoder_is_killed_is_tried_once_more(tmp_path: Path) -> None:
    converter = Converter(workers=1)
    first = Endless(converter, side=64)
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: converter.pids() not in ([], [first.pid]))
    (second,) = converter.pids()
    assert converter.converters.memory.reserved == 2**30
    os.kill(second, signal.SIGKILL)
    error = first.error()
    assert isinstance(error, errors.DownloadError)
    assert error.code == "conversion_failed"
    assert "short of memory" in error.message
    assert converter.convert(copied("bmp-rle.bmp", tmp_path), "image/bmp").type == "image/png"
    converter.close()


def test_ctrl_c_does_not_reach_the_workers(tmp_path: Path) -> None:
    converter = Converter(workers=1)
    path = copied("webp-lossy-vp8.webp", tmp_path)
    converter.convert(path, "image/webp")
    (pid,) = converter.pids()
    os.kill(pid, signal.SIGINT)
    converter.convert(path, "image/webp")
    assert converter.pids() == [pid]
    assert os.getpgid(pid) != os.getpgid(0)
    converter.close()


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_worker_has_low_priority_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGUR_CLIENT_SECRET", "hush")
    converter = Converter(workers=1)
    converter.convert(copied("bmp-rle.bmp", tmp_path), "image/bmp")
    (pid,) = converter.pids()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(own + 10, 19)
    assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()
    converter.close()


PARENT = """
import os, sys
from pathlib import Path
from tests.conversions import Converter
converter = Converter(workers=1)
{use}
print(*converter.pids(), flush=True)
sys.stdin.read()
"""
IDLE = "converter.convert(Path(sys.argv[1]), 'image/webp').path.unlink()"
BUSY = """
report = converter.endless()
os.rename(report.temp_fn, sys.argv[2])
os.symlink(sys.argv[2], report.temp_fn)
converter.submit(converter.converters.if_needed(report, 'job'))
os.open(sys.argv[2], os.O_WRONLY)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")
@pytest.mark.parametrize("use", [IDLE, BUSY], ids=["idle", "busy"])
def test_workers_end_with_a_parent_that_is_killed(use: str, tmp_path: Path) -> None:
    path, endless = copied("webp-lossy-vp8.webp", tmp_path), tmp_path / "endless"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(use=use), str(path), str(endless)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        # Held open here, so that not the image ends with the parent.
        writer = os.open(endless, os.O_WRONLY) if use == BUSY else os.open(path, os.O_RDONLY)
        parent.kill()
    waiting = select.poll()
    waiting.register(worker, select.POLLIN)
    assert waiting.poll(10_000), "the worker is still alive"
    os.close(worker)
    os.close(writer)


def test_importing_the_module_imports_no_codec() -> None:
    program = "import sys, imageload.convert.pool; print([m for m in sys.modules if 'PIL' in m])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
