"""The command `imageload`, also `python -m imageload`.

Exit status: 0 everything landed, 1 something failed, 2 misuse, 130 Ctrl-C, 141 stdout was closed.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from imageload.cli.arguments import read_arguments
from imageload.cli.connection import CommandError
from imageload.cli.output import print_message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Misuse raises SystemExit(2)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        return serve(given[1:])
    for stream in (sys.stdout, sys.stderr):
        # Escape characters that the terminal's encoding does not have.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        read = read_arguments(given)
        status: int = read.run(read)
        sys.stdout.flush()
    except CommandError as error:
        print_message(str(error))
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_stdout()
        return 141
    except OSError as error:
        _discard_stdout()
        print_message(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return 1
    return status


def _discard_stdout() -> None:
    """The interpreter flushes stdout once more at its end, which must not raise again."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def serve(options: Sequence[str]) -> int:
    """Run the service with the options of main.py and return its exit status.

    An installed package has main.py inside; in a checkout it is one folder up. With
    `--exit-with-parent` as the first option the service stops when its stdin is closed.
    """
    package = Path(__file__).parent
    if options[:1] == ["--exit-with-parent"]:
        options = options[1:]
        threading.Thread(target=_stop_at_end_of_stdin, name="parent", daemon=True).start()
    folder = package if (package / "main.py").exists() else package.parent
    script = runpy.run_path(str(folder / "main.py"), run_name="imageload.main")
    status: int = script["main"](options, program="imageload serve")
    return status


def _stop_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
