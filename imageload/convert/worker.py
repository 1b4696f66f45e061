"""The process that decodes and encodes images: `python -m imageload.convert.worker`.

Requests and responses are JSON. Only this process imports Pillow; convert/pool.py
says which format an image becomes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import signal
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

from PIL import Image

from imageload import errors
from imageload.convert.picture import BROKEN, Animation, Encoding, Still, read_picture
from imageload.processes.child import limit_memory, serve

_MIN_SIDE: Final = 16  # pixels; no image is made smaller than that


def main() -> None:
    """Answer requests until the standard input ends."""
    Image.preinit()
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    serve(_answer)


def _answer(encoded: bytes) -> bytes:
    request = json.loads(encoded)
    limit_memory(request["max_memory"])
    # The parent kills at the deadline. If it was killed itself, this ends a codec too.
    signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1)
    response = _respond(request)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return json.dumps(response).encode()


def _respond(request: dict[str, Any]) -> dict[str, Any]:
    """The new image's facts, or the error's name and message."""
    kind = request["type"].removeprefix("image/").upper()
    try:
        return _convert(request)
    except errors.ImageError as error:
        return {"error": error.code, "message": error.message}
    except MemoryError:
        message = f"The {kind} image needs more memory than it may have."
        return {"error": "out_of_memory", "message": message}
    except ImportError as error:
        message = f"This service has no decoder for {kind}: {error}."
    except BROKEN as error:
        # Pillow's own OSErrors have no number; EINVAL is a seek to an impossible place.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            failure = errors.disk_error(error)
            return {"error": failure.code, "message": failure.message}
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        message = f"The {kind} image cannot be decoded: {reason}."
    except Exception:
        return {"error": "internal_error", "message": traceback.format_exc()[-8000:]}
    return {"error": "conversion_failed", "message": message}


def _convert(request: dict[str, Any]) -> dict[str, Any]:
    """Write the first encoding that fits, and return its facts."""
    max_pixels = request["max_pixels"]
    file = _File(Path(request["new_path"]), request["max_bytes"])
    try:
        picture = read_picture(Path(request["path"]), request["type"], max_pixels)
        for encoding in _encodings(picture, file, request):
            if facts := file.put(encoding):
                return facts
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise errors.DownloadError(
            "too_many_pixels", f"The image has more than {max_pixels:,} pixels."
        ) from None
    raise errors.TooLarge(f"It cannot be shrunk to {file.max_bytes:,} bytes.")


def _encodings(
    picture: Still | Animation, file: _File, request: dict[str, Any]
) -> Iterator[Encoding]:
    """The best, then leaner ones, then smaller pictures; `file` has the last one's length."""
    if request["convert"]:
        best = picture.best()
        yield best
        if not request["shrink"]:
            raise errors.TooLarge(
                f"The image as {best.type} has {file.length:,} bytes;"
                f" at most {file.max_bytes:,} are accepted."
            )
    yield from picture.leaner()
    scale, (width, height) = 1.0, picture.size
    while True:
        scale *= min(0.9, 0.95 * math.sqrt(file.max_bytes / file.length))
        size = round(width * scale), round(height * scale)
        if min(size) < _MIN_SIDE:
            return
        yield picture.smaller(size)


class _File:
    """The new file, as Pillow writes to it. Bytes beyond `max_bytes` are counted, not written."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self.max_bytes = max_bytes
        self.length = max_bytes  # until `put` has written one

    def put(self, encoding: Encoding) -> dict[str, Any] | None:
        """Write this encoding in place of any before; the image's facts, or None if too large."""
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
        """Called by Pillow."""
        self.length += len(piece)
        if self.length <= self.max_bytes:
            self._sha256.update(piece)
            self._file.write(piece)
        return len(piece)


if __name__ == "__main__":
    main()
