"""How long the finders of documents take: each kind with ordinary and with hostile texts.

`python -m bench.documents [--size=40000] [KIND ...]` prints a table: CPU seconds a megabyte of the
corpus of tests/documents, and of the slowest hostile texts. It names every hostile text whose time
grows by more than 3 when its size doubles. Linear time grows by 2.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path

from imageload.documents.document import read_document
from imageload.documents.finders import find_images
from imageload.documents.kinds import KINDS
from tests.hostile_documents import UNITS, hostile

_CORPUS = Path(__file__).parent.parent / "tests" / "documents"
_SUSPICIOUS = 3.0
_SHOWN = 4
_NOISE = 0.05  # seconds that a busy machine may add
_MEGABYTE = 1_000_000


def seconds(text: str, kind: str) -> float:
    """CPU seconds of one search."""
    begin = time.process_time()
    find_images(text, kind)
    return time.process_time() - begin


def ordinary(kind: str, size: int) -> float:
    """CPU seconds a megabyte of the corpus's documents of this kind, again and again."""
    paths = [path for path in sorted(_CORPUS.iterdir()) if path.suffix not in (".finds", "")]
    documents = [read_document(path.read_bytes(), None, path.name) for path in paths]
    texts = [each.text for each in documents if each.kind == kind]
    text = "\n\n".join(texts)
    text = (text + "\n\n") * max(1, size // len(text))
    return seconds(text, kind) / len(text) * _MEGABYTE


def measure(kind: str, size: int) -> list[tuple[float, str]]:
    """The slowest units of a kind, as seconds a megabyte; prints what is not linear."""
    slowest = []
    for unit in UNITS:
        times = [seconds(hostile(unit, part), kind) for part in (size // 4, size // 2, size)]
        if times[2] > _NOISE and times[2] > _SUSPICIOUS * times[1] > _SUSPICIOUS**2 * times[0]:
            print(f"{kind}: {unit!r} grows by {times[1] / times[0]:.1f}, {times[2] / times[1]:.1f}")
        slowest.append((times[2] / size * _MEGABYTE, unit))
    return sorted(slowest, reverse=True)[:_SHOWN]


def main() -> None:
    """Measure the kinds that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=[*KINDS])
    parser.add_argument("--size", type=int, default=40_000, help="characters of the largest text")
    options = parser.parse_args()
    gc.disable()  # as in the processes that read documents
    print("| kind | ordinary, s/MB | hostile, s/MB: the slowest |\n| --- | --- | --- |")
    for kind in options.kinds:
        slowest = measure(kind, options.size)
        shown = ", ".join(f"{taken:.1f} `{unit!r}`" for taken, unit in slowest)
        print(f"| {kind} | {ordinary(kind, options.size):.2f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
