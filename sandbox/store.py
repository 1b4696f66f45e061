"""Images and albums on disk: links stay valid after a restart or a kill -9.

One flat directory: `<id>` has the image's bytes, `<id>.json` the metadata, `<id>.album` an album.
The JSON is written last, to a temporary name, and renamed; that rename creates the image. Nothing
is fsynced, so a power cut may lose images.

Methods may be called from any thread. One lock guards the index and is never held during disk I/O;
a second one, taken before it, serializes changes to albums.
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
ORPHAN_SECONDS = 3600  # younger bytes without JSON may be another process's upload
THUMBNAILS_KEPT = 1000


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One uploaded image. `account` is None for an anonymous upload.

    `size` is that of the stored bytes, `sha256` that of the bytes as they were sent.
    """

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
    """An ordered set of image ids; its deletehash addresses an anonymous one."""

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
    """7 alphanumeric characters, like Imgur's current ids."""
    return "".join(random.choices(ALPHABET, k=7))


def new_deletehash() -> str:
    """15 alphanumeric characters."""
    return "".join(random.choices(ALPHABET, k=15))


class Store:
    """The index in memory and its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thumbnails = directory / "thumbnails"
        self._thumbnails.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._album_lock = threading.Lock()
        self._images: dict[str, StoredImage] = {}
        self._albums: dict[str, Album] = {}
        self._ids: dict[str, str] = {}  # deletehash → id, of images and albums
        self.stored: Counter[str] = Counter()  # sha256 → number of images ever stored
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
        """The image's bytes; None if the image has been deleted."""
        return _read(self._directory / image_id)

    def add(self, image: StoredImage, content: bytes) -> None:
        """Store a new image; it exists when this returns."""
        (self._directory / image.id).write_bytes(content)
        self.put(image)
        with self._lock:
            self.stored[image.sha256] += 1

    def put(self, kept: Kept) -> None:
        """Write the metadata of a new or changed image or album."""
        suffix = ".json" if isinstance(kept, StoredImage) else ".album"
        path = self._directory / (kept.id + suffix)
        _replace(path, json.dumps(asdict(kept), separators=(",", ":")).encode())
        with self._lock:
            self._remember(kept)

    def delete_image(self, image: StoredImage) -> None:
        """Delete the image, its thumbnails, and its entries in albums."""
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
        """Change the images of an album, without other changes to albums at the same time."""
        with self._album_lock:
            album = self._albums.get(album_id)
            if album is not None:
                # A dict keeps the order and drops duplicates.
                images = tuple(dict.fromkeys(change(list(album.images))))
                self.put(replace(album, images=images))

    def delete_album(self, album: Album) -> None:
        """Delete the album and keep its images."""
        with self._lock:
            self._albums.pop(album.id, None)
            self._ids.pop(album.deletehash, None)
        (self._directory / f"{album.id}.album").unlink(missing_ok=True)

    def thumbnail(self, image_id: str, suffix: str) -> bytes | None:
        """A stored thumbnail; None if there is none."""
        return _read(self._thumbnails / f"{image_id}{suffix}.jpg")

    def add_thumbnail(self, image_id: str, suffix: str, content: bytes) -> None:
        """Store a thumbnail; drop the oldest half if there are too many."""
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
