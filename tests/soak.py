"""The long version of tests/test_crashes.py: python -m tests.soak --kills=300"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.crashes import killed_again_and_again


def main() -> int:
    """Kill, count, print; 1 where something was lost, wrong, unmarked or left."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--size", type=int, default=50, help="images of a job")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        counts = killed_again_and_again(
            Path(folder), options.kills, size=options.size, seed=options.seed
        )
    for name, count in asdict(counts).items():
        print(f"{name:9} {count:>7,}")
    return 1 if counts.lost or counts.wrong or counts.unmarked or counts.left else 0


if __name__ == "__main__":
    sys.exit(main())
