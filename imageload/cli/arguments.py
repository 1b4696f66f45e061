"""What the command line takes: commands, their options, and help."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Sequence

from imageload.cli import commands, uploading
from imageload.cli.formats import FORMATS
from imageload.settings import VERSION

DEFAULT_SERVER = "http://127.0.0.1:8888"

_EPILOG = """\
Links go to stdout, all else to stderr. Exit status: 0 all landed, 1 something failed, 2 misuse,
130 Ctrl-C. `imageload COMMAND --help` has a command's options, docs/cli.md examples.
"""


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, read: `run` is the command's function, which takes the whole.

    With --local, what stands behind `--` is for the service. Misuse ends the process with 2.
    """
    own, service_options = list(arguments), list[str]()
    if "--" in own and "--local" in own[: own.index("--")]:
        at = own.index("--")
        own, service_options = own[:at], own[at + 1 :]
    parser = _parser()
    read = parser.parse_args(own)
    read.prog, read.service_options = parser.prog, service_options
    given = read.server
    read.server = given or os.environ.get("IMAGELOAD_SERVER") or DEFAULT_SERVER
    read.server_given = bool(given)
    read.token = read.token or os.environ.get("IMAGELOAD_TOKEN", "")
    if getattr(read, "local", False) and (given or read.detach):
        parser.error("--local has no server, and goes not on by itself: no --server, no --detach")
    return read


def _parser() -> argparse.ArgumentParser:
    installed = not sys.argv[0].endswith("__main__.py")
    parser = argparse.ArgumentParser(
        prog="imageload" if installed else "python -m imageload",
        description="Put lists of image URLs on Imgur, by an imageload service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    _add_upload(add)
    _add_readers(add)
    _add_changers(add)
    return parser


Adder = Callable[..., argparse.ArgumentParser]


def _add(
    add: Adder,
    name: str,
    run: Callable[[argparse.Namespace], int],
    about: str,
) -> argparse.ArgumentParser:
    kind = add(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    kind.set_defaults(run=run)
    kind.add_argument(
        "--server",
        metavar="URL",
        help=f"the service; environment: IMAGELOAD_SERVER; default: {DEFAULT_SERVER}",
    )
    kind.add_argument(
        "--token",
        help="what the service knows you by; better in the environment: IMAGELOAD_TOKEN",
    )
    return kind


def _add_upload(add: Adder) -> None:
    upload = _add(add, "upload", uploading.upload, "post URLs, follow the job, print the links")
    upload.add_argument(
        "sources", nargs="+", metavar="FILE|URL|-", help="one list of URLs, or URLs; -: stdin"
    )
    upload.add_argument(
        "--album", metavar="TITLE", help="put the images into one new album of this title"
    )
    upload.add_argument("--title", help="the title of images that have none of their own")
    upload.add_argument("--description", help="their description, in the same way")
    upload.add_argument(
        "--no-dedupe",
        action="store_true",
        help="download and upload anew what was brought over before",
    )
    upload.add_argument("--detach", action="store_true", help="print the jobId, do not follow")
    upload.add_argument(
        "--local",
        action="store_true",
        help="do the work in this process; options of main.py stand behind --",
    )
    _add_following(upload)
    watch = _add(add, "watch", uploading.watch, "follow jobs to their end, print the links")
    watch.add_argument("job_ids", nargs="+", metavar="JOBID")
    _add_following(watch)


def _add_following(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--format", choices=FORMATS, default="text", help="how to print the links")
    kind.add_argument(
        "--failed-to",
        metavar="FILE",
        help="write the URLs that failed into FILE, which can be uploaded again",
    )
    _add_patience(kind)


def _add_patience(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to go on asking a service that does not answer; default: 60",
    )


def _add_readers(add: Adder) -> None:
    about = "say how far a job is and what failed"
    status = _add(add, "status", commands.status, about)
    status.add_argument("job_id", metavar="JOBID")
    jobs = _add(add, "jobs", commands.jobs, "list the newest jobs")
    jobs.add_argument("--limit", type=_count, default=20, metavar="N", help="default: 20")
    about = "print the links of a job, or of all"
    links = _add(add, "links", commands.links, about)
    links.add_argument("job_id", nargs="?", metavar="JOBID")
    links.add_argument("--format", choices=FORMATS, default="text")
    about = "say what Imgur still allows, and what waits for it"
    quota = _add(add, "quota", commands.quota, about)
    for kind in (status, jobs, quota):
        kind.add_argument("--format", choices=("text", "json"), default="text")


def _add_changers(add: Adder) -> None:
    retry = _add(add, "retry", commands.retry, "try a job's failed images again")
    retry.add_argument(
        "--only", choices=("transient",), help="transient: those that another try may help"
    )
    cancel = _add(add, "cancel", commands.cancel, "end what has not landed of a job")
    about = "cancel a job and delete its images from Imgur"
    undo = _add(add, "undo", commands.undo, about)
    for kind in (retry, cancel, undo):
        kind.add_argument("job_id", metavar="JOBID")
    _add_patience(undo)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) >= 1:
            return count
    raise argparse.ArgumentTypeError(f"{text!r} is no count")
