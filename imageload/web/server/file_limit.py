"""How many connections and streams the system lets us have: each is an open file, as all else."""

from __future__ import annotations

import logging
import resource

from imageload.settings import Config

_log = logging.getLogger(__name__)

# What everything else may have open: transfers, their idle connections, temp files, children.
_OTHER_FILES = 128
_FILES_A_TRANSFER = 4


def most_connections(config: Config) -> int:
    """As many as `config` wants, or fewer where this process may have few files open.

    Something is left for downloads and uploads then, and the log says so.
    """
    most, files = _room(config)
    if most < config.max_connections:
        _log.warning("at most %d connections, for %d files may be open", most, files)
    return most


def most_streams(config: Config) -> int:
    """As many as `config` wants, but half of the connections at most: requests need some too."""
    return min(config.max_streams, _room(config)[0] // 2)


def _room(config: Config) -> tuple[int, int]:
    """How many connections there may be, and how many files."""
    others = _OTHER_FILES + _FILES_A_TRANSFER * (config.downloads + config.uploads)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return config.max_connections, files
    return min(config.max_connections, max(files - others, files // 2)), files
