"""Tests of convert.metadata: metadata go; no pixel, colour profile or orientation changes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imageload.convert.metadata import NotStripped, strip, strip_file
from imageload.convert.picture import _PLUGINS
from imageload.fetch import sniff
from sandbox.testing import RunningSandbox
from tests.jobs import codes
from tests.origin import IMAGES, Origin, answer
from tests.photographs import ICC, PHOTOGRAPHS, SECRET
from tests.service import running_service, wired

FILES = sorted(path for path in IMAGES.iterdir() if path.suffix not in (".md", ".txt", ""))


class Seen(NamedTuple):
    """What a viewer needs of an image: the pixels of each frame and how long it is shown, too."""

    frames: list[tuple[Any, ...]]
    icc: bytes | None
    orientation: int
    loops: int | None


def seen(source: bytes, kind: str) -> Seen | str:
    """The image as it is decoded, or why it cannot be."""
    module, name = _PLUGINS[kind]
    try:
        image: Any = getattr(importlib.import_module(module), name)(io.BytesIO(source))
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = image.convert("RGBA").tobytes()
            frames.append((image.size, image.mode, image.info.get("duration"), pixels))
        turned = image.getexif().get(0x0112, 1)
        return Seen(frames, image.info.get("icc_profile"), turned, image.info.get("loop"))
    except Exception as error:
        return repr(error)


def type_of(source: bytes) -> str | None:
    header = sniff.header_of(lambda at, count: source[at : at + count], len(source))
    return header.type if header else None


@functools.cache
def photograph(name: str) -> bytes:
    return PHOTOGRAPHS[name][1]()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_keeps_its_pixels_orientation_and_profile_and_nothing_else(name: str) -> None:
    source, kind = photograph(name), PHOTOGRAPHS[name][0]
    assert type_of(source) == kind
    before = seen(source, kind)
    assert isinstance(before, Seen), before
    assert SECRET in source
    stripped = strip(source, kind)
    assert SECRET not in stripped
    after = seen(stripped, kind)
    assert after == before
    assert before.icc == (None if kind == "image/gif" else ICC)
    is_turned = before.frames[0][0] == (16, 24)  # by the decoder already
    assert is_turned or before.orientation == (1 if kind == "image/gif" else 6)
    assert type_of(stripped) == kind
    assert len(stripped) <= len(source)
    assert strip(stripped, kind) == stripped


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("behind", [b"", b"behind"])
def test_a_file_has_the_stripped_bytes_and_is_touched_once(
    tmp_path: Path, name: str, behind: bytes
) -> None:
    kind, path = PHOTOGRAPHS[name][0], tmp_path / "image"
    source = photograph(name) + behind
    path.write_bytes(source)
    try:
        stripped = strip(source, kind)
    except NotStripped:
        stripped = source  # its last box is longer than these bytes
        with pytest.raises(NotStripped):
            strip_file(str(path), kind)
    else:
        sha256 = hashlib.sha256(stripped).hexdigest()
        assert strip_file(str(path), kind) == {"bytes": len(stripped), "sha256": sha256}
    assert path.read_bytes() == stripped
    if stripped != source:
        assert strip_file(str(path), kind) is None
        assert path.read_bytes() == stripped


def test_no_compressed_text_stays_in_a_png() -> None:
    stripped = strip(photograph("PNG"), "image/png")
    assert not [kind for kind in (b"zTXt", b"tEXt", b"iTXt", b"tIME") if kind in stripped]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_image_looks_as_before(path: Path) -> None:
    source = path.read_bytes()
    kind = type_of(source)
    assert kind
    stripped = strip(source, kind)
    assert len(stripped) <= len(source)
    assert seen(stripped, kind) == seen(source, kind)
    assert strip(stripped, kind) == stripped


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_broken_file_is_stripped_or_refused(name: str) -> None:
    """It never raises anything else, never takes long and never grows."""
    source, kind = photograph(name), PHOTOGRAPHS[name][0]
    chance = random.Random(name)
    for turn in range(400):
        broken = bytearray(source)
        if turn % 2:
            del broken[chance.randrange(len(broken)) :]
        for _ in range(chance.randrange(8)):
            if broken:
                near = chance.choice((len(broken), min(len(broken), 600)))
                broken[chance.randrange(near)] = chance.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        try:
            stripped = strip(bytes(broken), kind)
        except NotStripped:
            continue
        assert len(stripped) <= len(broken)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("image/jpeg", b"\xff\xd8" + b"\xff" * 4_000_000 + b"\0"),
        ("image/jpeg", b"\xff\xd8\xff\xda\0\2" + b"\xff" * 4_000_000 + b"\0"),
        ("image/jpeg", b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000),
        ("image/png", b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0tEXt\0\0\0\0" * 400_000),
        ("image/gif", b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\1x\0" * 1_000_000),
        ("image/gif", b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1x" * 2_000_000),
        ("image/webp", b"RIFF\0\x12\x7a\0WEBP" + b"CAME\0\0\0\0" * 1_000_000),
        ("image/heic", b"\0\0\0\x08free" * 500_000),
        ("image/tiff", b"II*\0\x08\0\0\0" + b"\xff\xff" * 2_000_000),
    ],
)
def test_a_file_of_a_million_parts_is_soon_given_up(kind: str, source: bytes) -> None:
    with contextlib.suppress(NotStripped):
        assert len(strip(source, kind)) <= len(source)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "TIFF"])
def test_a_photograph_with_gps_through_the_service_has_none(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, name: str
) -> None:
    page = origin.page("/photograph", answer(photograph(name)))
    with running_service(tmp_path / "temp", **wired(sandbox, strip="true")) as service:
        job_id = service.submit([page])
        service.finish(job_id)
        record = service.records(job_id)[page]
    sent = strip(photograph(name), PHOTOGRAPHS[name][0])
    assert SECRET not in sent
    (image,) = sandbox.images()  # which removes metadata too, but says what it got
    assert image["sha256"] == hashlib.sha256(sent).hexdigest() == record["sha256"]
    assert record["bytes"] == len(sent)


@pytest.mark.parametrize("strips", ["true", "auto"])
def test_an_image_that_keeps_metadata_fails_if_that_is_demanded(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, strips: str
) -> None:
    png = photograph("PNG")
    foreign = png[:33] + b"\0\0\0\0ABCD\xdb\x17\x20\xa5" + png[33:]
    page = origin.page("/foreign", answer(foreign))
    with running_service(tmp_path / "temp", **wired(sandbox, strip=strips)) as service:
        job_id = service.submit([page])
        service.finish(job_id)
        assert codes(service, job_id) == ["metadata_kept" if strips == "true" else None]
        assert service.temp_files == []
