"""What the commands ask for jobs: a Source, and every way in which one can disappoint.

Jobs and records are the JSON objects of docs/api.md, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

Entry = dict[str, Any]
"""A job as the list of jobs has it."""

Record = dict[str, Any]
"""An image as the images page has it."""


class Body(NamedTuple):
    """What is posted: one or more lists of URLs, as bytes."""

    content: bytes
    content_type: str


class Page(NamedTuple):
    """Some records of a job, in input order. `after` names the next page; None: there is none."""

    records: list[Record]
    after: str | None


class Source(Protocol):
    """Where jobs are done. Its methods raise CommandError."""

    outlives_us: bool
    """Do jobs go on when this process ends?"""

    def submit(self, body: Body) -> list[str]:
        """The ids of the new jobs, one for each list in `body`."""

    def entries(self, job_ids: Sequence[str]) -> list[Entry]:
        """The jobs with these ids, in this order; cheap however many images they have."""

    def records(self, job_id: str, *, state: str | None = None, after: str | None = None) -> Page:
        """The job's records, those in `state` or all: the first of them, or those `after`."""

    def stop(self) -> None:
        """End the jobs that do not outlive us, as they stand."""


class CommandError(Exception):
    """Ends a command: a sentence for its user, and the exit status."""

    status = 1


class Misuse(CommandError):
    """The command, or what it would post, is not to be used like this: nothing was done."""

    status = 2


class UnknownJob(CommandError):
    """The service knows no job with this id."""


class Away(CommandError):
    """The service cannot answer now, and may in a while."""


class Busy(Away):
    """It answered that it takes nothing now; `retry_after` is when to come back, in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(Away):
    """It gave no answer. `sent`: the request may have arrived all the same."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
