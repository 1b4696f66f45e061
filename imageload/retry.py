"""The retry rule of downloads and uploads: which failures are retried, how often and when.

| what failed                                             | tries in all       |
| ------------------------------------------------------- | ------------------ |
| an error that is not `transient`                        | 1                  |
| a `transient` one                                       | `max_tries`        |
| one with a `max_tries` of its own, when less            | that               |
| one after which Imgur may have the image (`maybe_landed`) | 2, or 1 without `retry_lost` |

The wait before try n+1 is drawn from the upper half of `seconds` x 2^(n-1), at most
`cap_seconds` ("equal jitter": spread out, and never at once). A side that names a wait of its own
(Retry-After) gets it, within the same cap.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from imageload.errors import ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """The rule with its numbers: tries in all, first wait and longest wait in seconds.

    `retry_lost`: True if an image is uploaded again after the response to its upload was lost.
    """

    max_tries: int
    seconds: float
    cap_seconds: float
    retry_lost: bool = True

    def wait(self, error: ImageError, tries: int) -> float | None:
        """Seconds to wait after `error` ended the try number `tries`; None: that was the last."""
        limit = min(self.max_tries, error.max_tries or self.max_tries)
        if not error.transient or tries >= limit:
            return None
        if error.maybe_landed and not self.retry_lost:
            return None
        if error.retry_after is not None and error.retry_after > 0:
            return min(self.cap_seconds, error.retry_after)
        step: float = min(self.cap_seconds, self.seconds * 2.0 ** min(tries - 1, 60))
        return random.uniform(step / 2, step)
