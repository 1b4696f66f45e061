"""The images and albums on disk, so that a link survives a restart and a kill -9.

One directory, flat: `<id>` holds the bytes exactly as sent, `<id>.json` what is known of them,
`<id>.album` an album. The JSON is written last, to a temporary name, and renamed: an image exists
when that rename has happened, and not before. Nothing is fsynced; a power cut is not promised for.

Methods may be called from any thread. One lock guards the index and is never held over the
disk; a second one, taken before it, keeps changes to an album's images apart.
"""

from __future__ import annotations

import json
import logging
import random
import string
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

ALPHABET = string.ascii_letters + string.digits
ORPHAN_SECONDS = 3600  # bytes without JSON are another process's work in progress until then
THUMBNAILS_KEPT = 1000


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One uploaded image. `account` is None for an anonymous upload."""

    id: str
    deletehash: str
    type: str
    width: int
    height: int
    size: int
    sha256: str
    animated: bool
    datetime: int
    title: str | None = None
    description: str | None = None
    name: str = ""
    account: int | None = None
    favorite: bool = False


@dataclass(frozen=True, kw_only=True)
class Album:
    """An ordered set of image ids; addressed by its deletehash when anonymous."""

    id: str
    deletehash: str
    datetime: int
    title: str | None = None
    description: str | None = None
    cover: str | None = None
    account: int | None = None
    images: tuple[str, ...] = ()


Kept = TypeVar("Kept", StoredImage, Album)


def new_id() -> str:
    """7 alphanumeric characters, as Imgur's ids are today."""
    return "".join(random.choices(ALPHABET, k=7))


def new_deletehash() -> str:
    """15 alphanumeric characters."""
    return "".join(random.choices(ALPHABET, k=15))


class Store:
    """The index in memory and the directory it mirrors."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thumbnails = directory / "thumbnails"
        self._thumbnails.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._album_lock = threading.Lock()
        self._images: dict[str, StoredImage] = {}
        self._albums: dict[str, Album] = {}
        self._ids: dict[str, str] = {}  # deletehash → id, of images and albums
        self.stored: Counter[str] = Counter()  # sha256 → images ever stored, deleted ones too
        self._load()

    def image(self, image_id: str) -> StoredImage | None:
        """The image of an id."""
        return self._images.get(image_id)

    def image_of_hash(self, deletehash: str) -> StoredImage | None:
        """The image of a deletehash."""
        return self._images.get(self._ids.get(deletehash, ""))

    def images(self) -> list[StoredImage]:
        """Every image, oldest first."""
        with self._lock:
            return list(self._images.values())

    def album(self, album_id: str) -> Album | None:
        """The album of an id."""
        return self._albums.get(album_id)

    def album_of_hash(self, deletehash: str) -> Album | None:
        """The album of a deletehash."""
        return self._albums.get(self._ids.get(deletehash, ""))

    def content(self, image_id: str) -> bytes | None:
        """The bytes as they were sent; None when deleted meanwhile."""
        return _read(self._directory / image_id)

    def add(self, image: StoredImage, content: bytes) -> None:
        """Keep a new image. It exists once this has returned."""
        (self._directory / image.id).write_bytes(content)
        self.put(image)
        with self._lock:
            self.stored[image.sha256] += 1

    def put(self, kept: Kept) -> None:
        """Write what is known of an image or album, new or changed."""
        suffix = ".json" if isinstance(kept, StoredImage) else ".album"
        path = self._directory / (kept.id + suffix)
        _replace(path, json.dumps(asdict(kept), separators=(",", ":")).encode())
        with self._lock:
            self._remember(kept)

    def delete_image(self, image: StoredImage) -> None:
        """Forget the image, its bytes, its thumbnails, and its place in albums."""
        with self._lock:
            self._images.pop(image.id, None)
            self._ids.pop(image.deletehash, None)
            holding = [album for album in self._albums.values() if image.id in album.images]
        (self._directory / f"{image.id}.json").unlink(missing_ok=True)
        (self._directory / image.id).unlink(missing_ok=True)
        for path in self._thumbnails.glob(f"{image.id}?.jpg"):
            path.unlink(missing_ok=True)
        for album in holding:
            self.change_images(album.id, lambda ids: [i for i in ids if i != image.id])

    def change_images(self, album_id: str, change: Callable[[list[str]], list[str]]) -> None:
        """Change which images an album holds; no other change to albums comes between."""
        with self._album_lock:
            album = self._albums.get(album_id)
            if album is not None:
                # A dict keeps the order and drops what is there twice.
                images = tuple(dict.fromkeys(change(list(album.images))))
                self.put(replace(album, images=images))

    def delete_album(self, album: Album) -> None:
        """Forget the album; its images stay."""
        with self._lock:
            self._albums.pop(album.id, None)
            self._ids.pop(album.deletehash, None)
        (self._directory / f"{album.id}.album").unlink(missing_ok=True)

    def thumbnail(self, image_id: str, suffix: str) -> bytes | None:
        """A thumbnail made before; None when there is none yet."""
        return _read(self._thumbnails / f"{image_id}{suffix}.jpg")

    def add_thumbnail(self, image_id: str, suffix: str, content: bytes) -> None:
        """Keep a thumbnail, and let the oldest half go when there are too many."""
        kept = sorted(self._thumbnails.glob("*.jpg"), key=_age, reverse=True)
        if len(kept) >= THUMBNAILS_KEPT:
            for path in kept[: THUMBNAILS_KEPT // 2]:
                path.unlink(missing_ok=True)
        _replace(self._thumbnails / f"{image_id}{suffix}.jpg", content)

    def _remember(self, kept: StoredImage | Album) -> None:
        if isinstance(kept, StoredImage):
            self._images[kept.id] = kept
        else:
            self._albums[kept.id] = kept
        self._ids[kept.deletehash] = kept.id

    def _load(self) -> None:
        for image in sorted(_parsed(self._directory.glob("*.json"), StoredImage), key=_when):
            self._remember(image)
            self.stored[image.sha256] += 1
        for album in _parsed(self._directory.glob("*.album"), Album):
            self._remember(replace(album, images=tuple(album.images)))
        for path in self._directory.iterdir():
            known = path.suffix in (".json", ".album") or path.name in self._images
            if path.is_file() and not known and _age(path) > ORPHAN_SECONDS:
                path.unlink(missing_ok=True)


def _parsed(paths: Iterable[Path], kind: type[Any]) -> list[Any]:
    found = []
    for path in paths:
        try:
            found.append(kind(**json.loads(path.read_bytes())))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s is not readable and is left alone: %s", path, error)
    return found


def _when(image: StoredImage) -> int:
    return image.datetime


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
