"""Read Settings from flags and the environment, and describe the options for people.

A flag beats the environment variable, which beats the default. `--max-bytes` is
`IMAGELOAD_MAX_BYTES` in the environment; the Imgur options and the keys of a bucket have the names
that other programs use, such as `IMGUR_CLIENT_ID`. `python -m imageload.options > docs/options.md`
writes the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imageload.settings import GROUPS, VERSION, Settings
from imageload.targets.s3.location import Location


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _switch(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]


def _seconds(text: str) -> float:
    return _within(float(text), 0.001, math.inf)


def _count(text: str) -> int:
    return int(_within(int(text), 1, math.inf))


def _port(text: str) -> int:
    return int(_within(int(text), 0, 65535))


def _within(value: float, least: float, below: float) -> float:
    if not least <= value <= below or value == math.inf:
        raise ValueError(value)
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "port": _port,
    "seconds": _seconds,
    "bytes": _count,
    "count": _count,
    "true or false": _switch,
    "names": _names,
    "status": int,
}


def _reader(unit: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return _READERS.get(unit, str)(text)
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"{text!r} is not valid; give: {unit}") from None

    return read


def flag(name: str) -> str:
    """The command-line flag of the option `name`."""
    return "--" + name.replace("_", "-")


def environment_name(name: str) -> str:
    """The environment variable of the option `name`."""
    return name.upper() if name.startswith(("imgur_", "aws_")) else f"IMAGELOAD_{name.upper()}"


def options() -> tuple[dataclasses.Field[Any], ...]:
    """Every option in order; `metadata` has `group`, `unit`, `effect` and `was`."""
    return dataclasses.fields(Settings)


def show(value: object) -> str:
    """How help and documents write an option's value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _parser(environ: Mapping[str, str], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{'python3 ' * program.endswith('.py')}{program} [--option=value ...]",
        description="Starts the service, which copies images to Imgur or to an S3 bucket.",
        epilog="A flag beats the environment variable, which beats the default.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    groups = {
        name: parser.add_argument_group(name, f"Options of {about}.")
        for name, about in GROUPS.items()
    }
    for option in options():
        _add(groups[option.metadata["group"]], option, environ)
    return parser


def _add(
    group: argparse._ArgumentGroup, option: dataclasses.Field[Any], environ: Mapping[str, str]
) -> None:
    unit, was = option.metadata["unit"], option.metadata["was"]
    variable, is_switch = environment_name(option.name), unit == "true or false"
    default = environ.get(environment_name(was), option.default) if was else option.default
    text = f"{option.metadata['effect']}. Unit: {unit}; default: {show(option.default)}"
    group.add_argument(
        flag(option.name),
        *([flag(was)] if was else []),
        dest=option.name,
        nargs="?" if is_switch else None,
        const=True if is_switch else None,
        type=_reader(unit),
        default=environ.get(variable, default),
        metavar=unit.replace(" ", "-").upper(),
        help=f"{text}; environment: {variable}".replace("%", "%%"),
    )
    if is_switch:
        group.add_argument(
            flag(f"no_{option.name}"),
            dest=option.name,
            action="store_const",
            const=False,
            default=argparse.SUPPRESS,
            help=f"the same as {flag(option.name)}=false",
        )


def parse(
    arguments: Sequence[str], environ: Mapping[str, str], *, program: str = "main.py"
) -> Settings:
    """The Settings that flags and environment ask for. `program` is the command's name in help.

    Misuse (an unknown flag, a value that cannot be read, options that contradict each other) ends
    the process with status 2 and a sentence on stderr; `--help` and `--version` end it with 0.
    """
    parser = _parser(environ, program)
    values = vars(parser.parse_args(arguments))
    try:
        settings = Settings(**values)
        if settings.is_s3:
            location(settings)
    except ValueError as error:
        parser.error(str(error))
    return settings


def location(settings: Settings) -> Location:
    """Where the bucket is that `settings` name; raises ValueError if an option is wrong."""
    return Location.of(
        settings.target,
        region=settings.s3_region,
        endpoint=settings.s3_endpoint,
        public_url=settings.s3_public_url,
    )


def row(option: dataclasses.Field[Any]) -> str:
    """The option as a row of the tables in the documents."""
    shown = show(option.default).replace("none", "")
    return (
        f"| `{flag(option.name)}`<br>`{environment_name(option.name)}` "
        f"| {f'`{shown}`' if shown else ''} | {option.metadata['unit']} "
        f"| {option.metadata['effect']} |"
    )


def document() -> str:
    """docs/options.md."""
    lines = [
        "# Options",
        "",
        "Written by `python -m imageload.options > docs/options.md`; do not edit it by hand.",
        "A flag beats the environment variable, which beats the default.",
    ]
    for group, about in GROUPS.items():
        lines += ["", f"## {group.capitalize()}: {about}", ""]
        lines += ["| option, environment | default | unit | effect |", "| --- | --- | --- | --- |"]
        lines += [row(option) for option in options() if option.metadata["group"] == group]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(document())
