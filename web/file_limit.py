"""How many connections the system lets us have: each is an open file, and so is all else."""

from __future__ import annotations

import logging
import resource

from imageload.config import Config

_log = logging.getLogger(__name__)

# What everything else may have open: transfers, their idle connections, temp files, children.
_OTHER_FILES = 128
_FILES_A_TRANSFER = 4


def most_connections(config: Config) -> int:
    """As many as `config` wants, or fewer where this process may have few files open.

    Something is left for downloads and uploads then, and the log says so.
    """
    others = _OTHER_FILES + _FILES_A_TRANSFER * (config.downloads + config.uploads)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files >= config.max_connections + others:
        return config.max_connections
    most = min(config.max_connections, max(files - others, files // 2))
    _log.warning("at most %d connections, for %d files may be open", most, files)
    return most
