"""python -m sandbox: runs until SIGTERM, SIGINT, or, with --exit-with-parent, its parent's end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from .app import Sandbox
from .options import Options, flag, reasons


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a signal, 1 if it cannot listen. argparse exits with 2."""
    parser = _parser()
    try:
        options = Options(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        parser.error(str(error))
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger(__package__).setLevel(level)
    # Pillow warns of oddities in uploaded files.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        asyncio.run(_serve(options))
    except OSError as error:
        print(f"sandbox cannot serve on {options.address}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: Options) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sandbox = Sandbox(options)
    await sandbox.start()
    print(f"sandbox listening on {sandbox.url}", flush=True)
    if options.exit_with_parent:
        _watch_parent(lambda: loop.call_soon_threadsafe(stopped.set))
    try:
        await stopped.wait()
    finally:
        await sandbox.stop()


def _watch_parent(gone: Callable[[], object]) -> None:
    """Call `gone` at the end of stdin, a pipe from the parent, which ends when the parent does."""

    def watch() -> None:
        with contextlib.suppress(OSError):  # stdin is closed
            while os.read(0, 4096):
                pass
        gone()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="A stand-in for Imgur: the upload API and the image host.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    why = reasons()
    for option in dataclasses.fields(Options):
        name, reason = f"--{flag(option.name)}", why[option.name]
        if isinstance(option.default, bool):
            parser.add_argument(name, action="store_true", help=reason)
        else:
            kind = Path if isinstance(option.default, Path) else type(option.default)
            parser.add_argument(name, type=kind, default=option.default, help=reason)
    return parser


if __name__ == "__main__":
    sys.exit(main())
