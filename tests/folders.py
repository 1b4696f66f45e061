"""What is in a folder of temp files."""

from __future__ import annotations

from pathlib import Path


def filled(folder: Path) -> list[Path]:
    """The files in `folder` that are not empty; TempFiles keeps empty ones for reuse."""
    return [path for path in folder.iterdir() if path.stat().st_size]
