"""The commands of the command line, their options and help."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from imageload.cli import commands
from imageload.cli.check import check
from imageload.cli.output import FORMATS
from imageload.cli.rewrite import rewrite
from imageload.settings import VERSION

DEFAULT_SERVER = "http://127.0.0.1:8888"

_EPILOG = """\
Links go to stdout, everything else to stderr. Exit status: 0 success, 1 an image or the command
failed, 2 misuse, 130 Ctrl-C. `imageload COMMAND --help` lists the options of a command.
"""

Adder = Callable[..., argparse.ArgumentParser]


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; `run` is the function of the command. Misuse raises SystemExit(2).

    With --local, the arguments after `--` are options of the service.
    """
    own, service_options = list(arguments), list[str]()
    if "--" in own and "--local" in own[: own.index("--")]:
        at = own.index("--")
        own, service_options = own[:at], own[at + 1 :]
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions, and nothing else is done
        import argcomplete  # of the extra `cli`

        argcomplete.autocomplete(parser)
    read = parser.parse_args(own)
    read.prog, read.service_options = parser.prog, service_options
    given = read.server
    read.server = given or os.environ.get("IMAGELOAD_SERVER") or DEFAULT_SERVER
    read.server_given = bool(given)
    # The service's own variable, which may list several tokens.
    tokens = os.environ.get("IMAGELOAD_API_TOKEN", "").split(",")
    read.token = read.token or tokens[0].strip()
    if read.local and (given or read.detach):
        parser.error("--local cannot be combined with --server or --detach")
    return read


def _parser() -> argparse.ArgumentParser:
    installed = not sys.argv[0].endswith("__main__.py")
    parser = argparse.ArgumentParser(
        prog="imageload" if installed else "python -m imageload",
        description="Copy images to Imgur, or to an S3 bucket, with an imageload service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    _add_upload(add)
    _add_rewrite(add)
    _add_watch(add)
    # Only for the list of commands: `imageload.__main__` runs it, and main.py reads its options.
    add("serve", help="start the service", add_help=False)
    _add_readers(add)
    _add_changers(add)
    _add_check(add)
    return parser


def _add(
    add: Adder, name: str, run: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    kind = add(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    kind.set_defaults(run=run, local=False, patience=0.0)
    server = f"URL of the service; environment: IMAGELOAD_SERVER; default: {DEFAULT_SERVER}"
    kind.add_argument("--server", metavar="URL", help=server)
    token = "API token of the service; safer in the environment: IMAGELOAD_API_TOKEN"  # noqa: S105
    kind.add_argument("--token", help=token)
    about = "print one JSON document, the same as --format=json where there are formats"
    kind.add_argument("--json", action="store_const", const="json", dest="format", help=about)
    kind.set_defaults(format="text")
    return kind


def _add_upload(add: Adder) -> None:
    upload = _add(add, "upload", commands.upload, "post URLs, follow the job, print the links")
    about = "a list of URLs or a document, URLs, or - for a list from stdin"
    upload.add_argument("sources", nargs="+", metavar="FILE|URL|-", help=about)
    _add_posting(upload)
    _add_switches(upload, {"detach": "print the jobId, do not follow the job"})
    _add_following(upload)


def _add_rewrite(add: Adder) -> None:
    about = "replace the image URLs in documents by links"
    kind = _add(add, "rewrite", rewrite, about)
    kind.epilog = (
        "In a folder or a zip file, the documents are the files that end in .md, .html, .csv, "
        ".json, .txt or another suffix of documents. Hidden files, hidden folders and symbolic "
        "links are skipped. Other files of a folder are not copied to DIR; those of a zip file "
        "are kept."
    )
    about = "a document, a folder or zip file of documents, or - for stdin; one FILE is printed"
    kind.add_argument("sources", nargs="+", metavar="FILE|FOLDER|ZIP|-", help=about)
    kind.add_argument("--output", metavar="DIR", help="write the documents into this folder")
    switches = {
        "in-place": "overwrite the files whose URLs were replaced",
        "backup": "with --in-place: keep FILE as FILE.bak",
    }
    _add_switches(kind, switches)
    kind.add_argument("--column", metavar="NAME", help="the column with the URLs, in tables")
    about = "URL of FILE or FOLDER, for resolving relative URLs"
    kind.add_argument("--base", metavar="URL", help=about)
    _add_posting(kind)
    _add_patience(kind)
    kind.set_defaults(detach=False)


def _add_posting(kind: argparse.ArgumentParser) -> None:
    """The options of a POST, and --local."""
    texts = {
        "album": "put the images into a new album with this title",
        "title": "title of images that have no title of their own",
        "description": "description of images that have no description of their own",
    }
    for name, about in texts.items():
        kind.add_argument(f"--{name}", help=about)
    switches = {
        "no-dedupe": "download and upload every image, also one whose link is known",
        "local": "start a service for this command; options after -- are for the service",
    }
    _add_switches(kind, switches)


def _add_switches(kind: argparse.ArgumentParser, switches: Mapping[str, str]) -> None:
    for name, about in switches.items():
        kind.add_argument(f"--{name}", action="store_true", help=about)


def _add_watch(add: Adder) -> None:
    watch = _add(add, "watch", commands.watch, "follow jobs, print the links")
    _add_job(watch, "job_ids", nargs="+")
    _add_following(watch)


def _add_job(kind: argparse.ArgumentParser, name: str = "job_id", nargs: str | None = None) -> None:
    about = "id of a job, the first 4 or more characters of it, or `latest`"
    kind.add_argument(name, nargs=nargs, metavar="JOBID", help=about)


def _add_following(kind: argparse.ArgumentParser) -> None:
    _add_format(kind, FORMATS)
    about = "write the URLs that failed into FILE, for another upload"
    kind.add_argument("--failed-to", metavar="FILE", help=about)
    _add_patience(kind)


def _add_format(kind: argparse.ArgumentParser, formats: Iterable[str]) -> None:
    kind.add_argument("--format", choices=list(formats), help="format of the output")


def _add_patience(kind: argparse.ArgumentParser) -> None:
    about = "how long to wait for a service that does not answer; default: 60"
    kind.add_argument("--patience", type=_seconds, default=60.0, metavar="SECONDS", help=about)


def _add_readers(add: Adder) -> None:
    about = "print the progress and the failures of a job"
    status = _add(add, "status", commands.status, about)
    _add_job(status)
    jobs = _add(add, "jobs", commands.jobs, "list the newest jobs")
    jobs.add_argument("--limit", type=_count, default=20, metavar="N", help="default: 20")
    links = _add(add, "links", commands.links, "print the links of a job, or of all jobs")
    _add_job(links, nargs="?")
    about = "print Imgur's remaining budgets and the current wait"
    quota = _add(add, "quota", commands.quota, about)
    _add_format(links, FORMATS)
    for kind in (status, jobs, quota):
        _add_format(kind, ("text", "json"))


def _add_changers(add: Adder) -> None:
    retry = _add(add, "retry", commands.retry, "retry the failed images of a job")
    about = "transient: retry only temporary errors"
    retry.add_argument("--only", choices=("transient",), help=about)
    about = "cancel the images of a job that are not uploaded yet"
    cancel = _add(add, "cancel", commands.cancel, about)
    undo = _add(add, "undo", commands.undo, "cancel a job, and delete its images and its album")
    for kind in (retry, cancel, undo):
        _add_job(kind)
    _add_patience(undo)


def _add_check(add: Adder) -> None:
    about = "check every link of a job, and print the broken ones"
    kind = _add(add, "check", check, about)
    _add_job(kind)
    about = "load images with dead links again, and print the old and the new links"
    kind.add_argument("--rehost", action="store_true", help=about)
    _add_patience(kind)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) >= 1:
            return count
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
