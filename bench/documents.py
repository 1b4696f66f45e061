"""How the finders of documents scale: each kind with hostile text of three sizes.

`python -m bench.documents [--size=40000] [KIND ...]` prints every case whose time grows by more
than 3 when its size doubles, and the slowest cases of each kind. Linear time grows by 2.
"""

from __future__ import annotations

import argparse
import time

from imageload.documents import KINDS
from imageload.documents.kinds import find_images
from tests.hostile_documents import UNITS, hostile

_SUSPICIOUS = 3.0
_SHOWN = 5
_NOISE = 0.05  # seconds that a busy machine may add


def seconds(text: str, kind: str) -> float:
    """CPU seconds of one search."""
    begin = time.process_time()
    find_images(text, kind)
    return time.process_time() - begin


def measure(kind: str, size: int) -> list[tuple[float, str]]:
    """The slowest units of a kind, as seconds of the largest size; prints what is not linear."""
    slowest = []
    for unit in UNITS:
        times = [seconds(hostile(unit, part), kind) for part in (size // 4, size // 2, size)]
        if times[2] > _NOISE and times[2] > _SUSPICIOUS * times[1] > _SUSPICIOUS**2 * times[0]:
            print(f"{kind}: {unit!r} grows by {times[1] / times[0]:.1f}, {times[2] / times[1]:.1f}")
        slowest.append((times[2], unit))
    return sorted(slowest, reverse=True)[:_SHOWN]


def main() -> None:
    """Measure the kinds that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=KINDS)
    parser.add_argument("--size", type=int, default=40_000, help="characters of the largest text")
    options = parser.parse_args()
    for kind in options.kinds:
        slowest = measure(kind, options.size)
        shown = ", ".join(f"{unit!r} {taken:.2f} s" for taken, unit in slowest)
        print(f"{kind}, {options.size:,} characters, slowest: {shown}")


if __name__ == "__main__":
    main()
