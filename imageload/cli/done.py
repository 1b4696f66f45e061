"""Which documents of a folder of --output are done, for a service that has forgotten their jobs.

The file `.imageload` of the folder has a line for each: the key of the document, which is a hash of
all that its copy depends on, and the SHA-256 of the copy.
"""

from __future__ import annotations

from pathlib import Path

from imageload.cli.files import digest


class Done:
    """The documents whose copies are complete."""

    def __init__(self, folder: Path | None) -> None:
        """Without a folder nothing is done, and nothing is kept."""
        self._file = folder / ".imageload" if folder is not None else None
        self._copies: dict[str, str] = {}
        if self._file is not None and self._file.exists():
            lines = self._file.read_text(encoding="ascii", errors="replace").splitlines()
            pairs = (line.split() for line in lines)
            self._copies = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def has(self, key: str, copy: Path | None) -> bool:
        """Whether `copy` is that of the document with this key, as it was written."""
        known = self._copies.get(key)
        return known is not None and copy is not None and copy.exists() and digest(copy) == known

    def add(self, key: str, copy: Path) -> None:
        """The copy is complete. A line that a kill cuts short counts as none."""
        if self._file is not None and not self.has(key, copy):
            self._copies[key] = digest(copy)
            with self._file.open("a", encoding="ascii") as file:
                file.write(f"\n{key} {self._copies[key]}\n")
