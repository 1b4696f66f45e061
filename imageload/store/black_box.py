"""Which images were in work when the process died: what no orderly record can tell.

An image that kills the process (a library breaks on it, it takes all memory) kills it again after
every restart, and must be told from those that were beside it. So each is noted in a small file
that is mapped into memory: a note costs a microsecond and no disk write, and lies in the system's
hands. So it outlives the process, though not a power cut, which is no image's fault.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

_NOTE = struct.Struct("<QQ")
_NOTES = 8_192
_LENGTH = _NOTES * _NOTE.size

Place = tuple[int, int]
"""An image: the number of its job, from 1, and its index there."""


class BlackBox:
    """The notes in the file at `path`, which is made where there is none. Safe in all threads.

    It has room for 8,192 images at once; those beyond are not noted. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            if os.fstat(descriptor).st_size != _LENGTH:
                # Written, not truncated to length: a hole in a full disk would kill the process.
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, bytes(_LENGTH), 0)
                if os.fstat(descriptor).st_size != _LENGTH:
                    raise OSError(28, "No space left on device")
            self._map = mmap.mmap(descriptor, _LENGTH)
        finally:
            os.close(descriptor)
        self._lock = threading.Lock()
        self._free = list(range(0, _LENGTH, _NOTE.size))
        self._offsets: dict[Place, int] = {}

    def found(self) -> set[Place]:
        """What is noted in the file: when it was opened, what the process before had in work."""
        notes = _NOTE.iter_unpack(self._map[:])
        return {(number, index) for number, index in notes if number}

    def note(self, place: Place) -> None:
        """The image is in work."""
        with self._lock:
            if place not in self._offsets and self._free:
                offset = self._offsets[place] = self._free.pop()
                _NOTE.pack_into(self._map, offset, *place)

    def erase(self, place: Place) -> None:
        """The image is not in work any more, if it was."""
        with self._lock:
            offset = self._offsets.pop(place, None)
            if offset is not None:
                _NOTE.pack_into(self._map, offset, 0, 0)
                self._free.append(offset)

    def clear(self) -> None:
        """Nothing is in work."""
        with self._lock:
            self._map[:] = bytes(_LENGTH)
            self._free = list(range(0, _LENGTH, _NOTE.size))
            self._offsets.clear()

    def close(self) -> None:
        """Let go of the file, with the notes that are in it."""
        self._map.close()
