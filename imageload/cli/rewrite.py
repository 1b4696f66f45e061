"""`rewrite`: the command and its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from imageload.cli import commands
from imageload.cli.client import Client
from imageload.cli.connection import Away, CommandError, Misuse, UnknownJob
from imageload.cli.documents import Source, sources_of
from imageload.cli.looking import Options
from imageload.cli.output import print_message
from imageload.cli.report import Report
from imageload.cli.rewriter import Rewriter


def rewrite(arguments: argparse.Namespace) -> int:
    """Rewrite documents. 0 if all of their images were replaced."""
    options = _options(arguments)
    sources = sources_of(arguments.sources, options.output)
    _check_places(sources, options)
    report = Report()
    with commands.opened_client(arguments) as client:
        try:
            status = _run(client, sources, options, report, is_local=arguments.local)
        except KeyboardInterrupt:
            print_message("The jobs continue. The same command goes on with them.")
            return commands.INTERRUPTED
        except (Away, UnknownJob) as error:
            raise CommandError(f"{error} Run the same command again: it goes on.") from None
    if arguments.format == "json":
        print(json.dumps(report.as_json()))
    report.print()
    return status or (0 if report.is_complete else 1)


def _run(
    client: Client, sources: Sequence[Source], options: Options, report: Report, *, is_local: bool
) -> int:
    options = replace(options, link_base=client.link_base())
    rewriter = Rewriter(client, options, report)
    try:
        rewriter.run(sources)
    except KeyboardInterrupt:
        if not is_local:
            raise
        rewriter.cancel()
        return commands.INTERRUPTED
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    """Raises Misuse for options that do not go together."""
    output = Path(arguments.output) if arguments.output is not None else None
    is_one = len(arguments.sources) == 1 and not Path(arguments.sources[0]).is_dir()
    if output is not None and arguments.in_place:
        raise Misuse("--output and --in-place cannot be combined.")
    if arguments.backup and not arguments.in_place:
        raise Misuse("--backup is for --in-place.")
    if output is None and not arguments.in_place:
        if not is_one:
            raise Misuse("Give --output=DIR or --in-place: only one FILE is printed.")
        if arguments.format == "json":
            raise Misuse("--json needs --output or --in-place: without them FILE is printed.")
    elif "-" in arguments.sources:
        raise Misuse("stdin is printed: it has no --output and no --in-place.")
    if arguments.base and not _is_url(arguments.base):
        raise Misuse(f"--base is an http or https URL, and {arguments.base} is none.")
    return Options(
        query=commands.query_of(arguments),
        base=arguments.base or "",
        column=arguments.column or "",
        is_one=is_one,
        output=output,
        in_place=arguments.in_place,
        backup=arguments.backup,
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _check_places(sources: Sequence[Source], options: Options) -> None:
    """Raise Misuse if two files would go to one place, or a file onto itself."""
    if options.output is None:
        return
    places: dict[Path, str] = {}
    for source in sources:
        place = options.output / source.place
        if place in places:
            raise Misuse(f"{places[place]} and {source.name} would both become {place}.")
        if source.path is not None and place.resolve() == source.path.resolve():
            raise Misuse(f"{source.name} would be replaced: that is --in-place.")
        places[place] = source.name
