"""The spool: temp files that the next process on a journal uses again, in place of a download.

    an image waits for its upload ─► its row in the journal names its temp file
    the process ends, or is killed ─► the file stays
    the next one starts ───────────► files of open images stay, all others are deleted
    the image is loaded again ─────► `take`: its file, if it is whole; else it is downloaded

Signed links of chats and shops end within a day, and a wait for Imgur's quota can take longer. Runs
on the transfer loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec.structs import replace

from imageload.fetch.tempfiles import TempBytes, TempFiles, sweep
from imageload.image import Failed, Report
from imageload.job import Change, Job

_log = logging.getLogger(__name__)


def spool_folder(store: str, parent: str = "") -> Path:
    """The folder for the temp files of the journal `store`, made if it is missing.

    It is beside the journal, or in `parent` if that is named. Two names of one journal have one
    folder, two journals never do. Raises OSError if it cannot be made, or is another user's.
    """
    journal = os.path.realpath(store)
    sweep(Path(parent or tempfile.gettempdir()))  # folders of processes without a journal
    name = hashlib.sha256(os.fsencode(journal)).hexdigest()[:16]
    folder = Path(parent) / f"imageload-spool-{name}" if parent else Path(f"{journal}-spool")
    folder.mkdir(0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"The folder for temp files is another user's, or a link: {folder}")
    folder.chmod(0o700)
    return folder


class Spool:
    """The images whose temp files an earlier process left, and that are not loaded again yet."""

    def __init__(
        self, files: TempFiles, temp_bytes: TempBytes, kept: Mapping[Job, Mapping[int, Report]]
    ) -> None:
        """`kept` has the Reports of these images, by job and index.

        Their files count in `temp_bytes`. Raises OSError if the folder cannot be read.
        """
        self._files = files
        self._temp_bytes = temp_bytes
        self._kept: dict[str, dict[int, Report]] = {}
        self._checking = asyncio.Lock()  # one at a time: each has a core for itself
        reports = [report for some in kept.values() for report in some.values()]
        found = files.adopt({_name(report): report.bytes for report in reports})
        if reports:
            _log.info("found temp files of open images files=%d of=%d", len(found), len(reports))
        for job, some in kept.items():
            for index, report in some.items():
                path = found.pop(_name(report), None)  # by name: the journal may have been moved
                if path is not None:
                    self._kept.setdefault(job.job_id, {})[index] = replace(report, temp_fn=path)
                    temp_bytes.resize(job.job_id, 0, report.bytes)

    def __contains__(self, job_id: str) -> bool:
        """True if a file of the job is left."""
        return job_id in self._kept

    def images_of(self, job_id: str) -> Collection[int]:
        """The images of the job that have a file, by index."""
        return self._kept.get(job_id, {}).keys()

    async def take(self, job_id: str, index: int) -> Report | None:
        """The Report of the image if its file is left and whole; it is the caller's then."""
        report = self._kept.get(job_id, {}).get(index)
        if report is None:
            return None
        async with self._checking:
            is_whole = await asyncio.to_thread(_is_whole, report)
        if not is_whole:
            self._discard(job_id, index)
            _log.warning("a kept temp file has changed job=%s path=%s", job_id, report.temp_fn)
            return None
        self._forget(job_id, index)
        return report

    def __call__(self, job: Job, change: Change) -> None:
        """Delete the file of an image that has failed; an observer."""
        if type(change) is Failed and change.index in self.images_of(job.job_id):
            self._discard(job.job_id, change.index)

    def _discard(self, job_id: str, index: int) -> None:
        report = self._forget(job_id, index)
        self._files.delete(report.temp_fn)
        self._temp_bytes.resize(job_id, report.bytes, 0)

    def _forget(self, job_id: str, index: int) -> Report:
        reports = self._kept[job_id]
        report = reports.pop(index)
        if not reports:
            del self._kept[job_id]
        return report


def _name(report: Report) -> str:
    return Path(report.temp_fn).name


def _is_whole(report: Report) -> bool:
    """The file has the bytes that were downloaded."""
    try:
        with Path(report.temp_fn).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == report.sha256
    except OSError:
        return False
