"""The loads of the benchmark, and the interface of all ways to carry them."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.process import Usage

_FIRST_VERSION_PART = 50
_QUICK_PART = 10


@dataclass(frozen=True, slots=True)
class Load:
    """Images of `size` bytes, loaded by every way in every round."""

    images: int
    size: int
    hosts: int = 1
    """Addresses of the origin, over which the images are spread."""
    origin_seconds: float = 0.0
    """Time that the origin takes before each response."""
    sink_seconds: float = 0.0
    """Time that the sink takes before each response."""
    has_statuses: bool = False
    """True: response times of the HTTP API are measured too."""

    @property
    def is_late(self) -> bool:
        """True if the servers take a time of their own."""
        return bool(self.origin_seconds or self.sink_seconds)

    @property
    def first_version_images(self) -> int:
        """The images of a round by the first version, which is slow."""
        return math.ceil(self.images / _FIRST_VERSION_PART)

    def quick(self) -> Load:
        """A tenth of the images."""
        return dataclasses.replace(self, images=math.ceil(self.images / _QUICK_PART))

    def title(self, wide: int, starts: int, rounds: int) -> str:
        """The head of a table, for `wide` images in flight."""
        hosts = f" from {self.hosts} addresses" if self.hosts > 1 else ""
        late = (
            f", origin {1000 * self.origin_seconds:g} ms, sink {1000 * self.sink_seconds:g} ms"
            if self.is_late
            else ""
        )
        size = f"{self.size / 1e6:g} MB" if self.size >= 1e6 else f"{self.size / 1e3:g} kB"
        return (
            f"{self.images:,} images of {size}{hosts}{late}, {wide} wide, "
            f"{counted(starts, 'start')} of {counted(rounds, 'round')}"
        )

    def bounds(self, wide: int) -> tuple[float, float]:
        """The most images/s that the servers' times allow.

        First with `wide` downloads and `wide` uploads at once, then with two passes, or one slot
        for a download and its upload.
        """
        turns = math.ceil(self.images / wide)
        slower = max(self.origin_seconds, self.sink_seconds)
        both = self.origin_seconds + self.sink_seconds
        return self.images / (turns * slower + both - slower), self.images / (turns * both)


def counted(count: int, name: str) -> str:
    """`count` things, in words."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


class Way:
    """A way to load images, ready for some rounds."""

    @abstractmethod
    def __call__(self, urls: Sequence[str]) -> Usage:
        """Load these images; the cost of that."""

    def warm_up(self, url: str) -> None:
        """Load one image, before the first round."""
        self([url])


LOADS: Mapping[str, Load] = {
    "4kB": Load(2_000, 4_000),
    "50kB": Load(2_000, 50_000, has_statuses=True),
    "1MB": Load(320, 1_000_000),
    "10MB": Load(64, 10_000_000),
    "latency": Load(320, 50_000, origin_seconds=0.05, sink_seconds=0.1),
    "hosts": Load(1_000, 50_000, hosts=200),
}
