"""The command `imageload`, also `python -m imageload`: from arguments to an exit status.

0 all landed, 1 something failed, 2 misuse, 130 Ctrl-C, 141 nobody reads our output any more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from imageload.cli.arguments import read_arguments
from imageload.cli.printable import tell
from imageload.cli.source import CommandError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Misuse of the arguments themselves raises SystemExit(2)."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to break off.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        read = read_arguments(sys.argv[1:] if arguments is None else arguments)
        status: int = read.run(read)
        sys.stdout.flush()
    except CommandError as error:
        tell(str(error))
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered must not raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        tell(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
