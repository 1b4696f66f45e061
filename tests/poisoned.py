"""main.py, but it is killed when an image whose URL ends in `?poison` has been downloaded."""

from __future__ import annotations

import os
import signal
import sys

from imageload.image import Downloaded
from imageload.job import Change, Job
from main import main

POISON = "?poison"
_apply = Job.apply


def _apply_or_die(job: Job, change: Change) -> None:
    if type(change) is Downloaded and job.image(change.index).url.endswith(POISON):
        os.kill(os.getpid(), signal.SIGKILL)
    _apply(job, change)


if __name__ == "__main__":
    setattr(Job, "apply", _apply_or_die)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
