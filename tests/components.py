"""Real programs that some tests need: in CI a missing one fails the test, elsewhere it skips it."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def real_component(*names: str) -> str:
    """The path of the first of these programs that is there; `missing` without any."""
    # Debian puts servers where only root looks.
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    found = [path for name in names if (path := shutil.which(name, path=places))]
    if not found:
        missing(names[0], names[0].replace("nginx", "nginx-light"))
    return found[0]


def missing(name: str, package: str) -> NoReturn:
    """Skip the test with word of what to install; in CI fail it."""
    message = f"needs {name}: on Debian, apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
