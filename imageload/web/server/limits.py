"""Limits on connections and event streams that fit the process's limit of open files."""

from __future__ import annotations

import logging
import resource

from imageload.settings import Settings
from imageload.tuning import Tuning

_log = logging.getLogger(__name__)

# Files for all else: transfers, their idle connections, temp files, child processes.
_OTHER_FILES = 128
_FILES_PER_TRANSFER = 4


def most_connections(settings: Settings) -> int:
    """`max_connections`, or fewer if the limit of open files is too low; then logs a warning."""
    most = settings.max_connections
    others = _OTHER_FILES + _FILES_PER_TRANSFER * (settings.downloads + settings.uploads)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY:
        most = min(most, max(files - others, files // 2))
    if most < settings.max_connections:
        _log.warning("at most %d connections, because only %d files may be open", most, files)
    return most


def most_streams(connections: int, tuning: Tuning) -> int:
    """`max_streams`, but at most half of the connections: requests need the others."""
    return min(tuning.max_streams, connections // 2)
