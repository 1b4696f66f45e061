"""The bodies of requests to Imgur: JSON, a form, or a file as multipart/form-data."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

from imageload import errors

# Secret, so that no image can contain the boundary that ends it.
_BOUNDARY = secrets.token_hex(16)
_FILE_HEAD = (
    f"--{_BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="image"; filename="image"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
)
_END = f"\r\n--{_BOUNDARY}--\r\n".encode()


class _Text(io.BytesIO):
    """A body held in memory; empty: no body."""

    media_type: str

    def __init__(self, text: str) -> None:
        super().__init__(text.encode())
        self.length = len(self.getvalue())


class Form(_Text):
    """An application/x-www-form-urlencoded body."""

    media_type = "application/x-www-form-urlencoded"


class Json(_Text):
    """An application/json body with these fields."""

    media_type = "application/json"

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(dict(fields)))


class Multipart:
    """A multipart/form-data body (RFC 7578) with one file, read from the disk as it is sent."""

    media_type = f"multipart/form-data; boundary={_BOUNDARY}"

    def __init__(self, path: str, fields: Mapping[str, str]) -> None:
        texts = {"type": "file", **fields}
        head = "".join(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in texts.items()
        )
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.disk_error(error) from None
        self._file_left = os.fstat(self._descriptor).st_size
        self._before = (head + _FILE_HEAD).encode()
        self._after = _END
        self.length = len(self._before) + self._file_left + len(self._after)

    def __enter__(self) -> Multipart:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, size: int, /) -> bytes:
        """The next bytes of the body, at most `size`."""
        before, self._before = self._before[:size], self._before[size:]
        room = min(self._file_left, size - len(before))
        found = os.read(self._descriptor, room) if room else b""
        if room and not found:
            raise errors.ImageError("disk_error", "The temp file has become shorter.")
        self._file_left -= len(found)
        room = size - len(before) - len(found) if not self._file_left else 0
        after, self._after = self._after[:room], self._after[room:]
        return b"".join((before, found, after)) if before or after else found
