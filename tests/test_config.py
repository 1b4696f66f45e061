"""Tests of settings and options: a flag beats the environment, which beats the default; misuse
ends with status 2 and a sentence; secrets stay secret; and --help has all of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from imageload.options import environment_name, flag, options, parse
from imageload.settings import GROUPS, VERSION, Settings
from imageload.tuning import Tuning
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent

NAMES = [option.name for option in options()]
SECRETS = (
    "api_token",
    "imgur_client_id",
    "imgur_client_secret",
    "imgur_refresh_token",
    "imgur_rapidapi_key",
    "client_ids",
)

# By unit: a text and the value it means, for the environment and then for the flag.
SAMPLES: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "port": (("9001", 9001), ("0", 0)),
    "address": (("0.0.0.0", "0.0.0.0"), ("::1", "::1")),
    "count": (("7", 7), ("1", 1)),
    "bytes": (("4096", 4096), ("1", 1)),
    "seconds": (("1.5", 1.5), ("3", 3.0)),
    "path": (("/one", "/one"), ("two", "two")),
    "text": (("one", "one"), ("two words", "two words")),
    "names": (
        ("10.0.0.0/8, a.example", ("10.0.0.0/8", "a.example")),
        ("b.example,,", ("b.example",)),
    ),
    "URL": (("http://one.example/", "http://one.example/"), ("https://two/", "https://two/")),
    "true or false": (("false", False), ("TRUE", True)),
    "status": (("404", 404), ("505", 505)),
    "level": (("DEBUG", "DEBUG"), ("ERROR", "ERROR")),
}

# Options that take less than their unit says.
NARROWER: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "temp_bytes": (("2000000000", 2_000_000_000), ("3000000000", 3_000_000_000)),
    "imgur_client_id": (("one", "one"), ("two=9/99", "two=9/99")),
    "reject_sha256": (("ab" * 32, ("ab" * 32,)), (f"{'1' * 64},{'A' * 64}", ("1" * 64, "A" * 64))),
    "client_ids": (("one, two=500/9", ("one", "two=500/9")), ("three=10", ("three=10",))),
    "api_token": (("abc-1, d/e+f==", ("abc-1", "d/e+f==")), ("x,,", ("x",))),
    "cors_origin": (
        (
            "https://a.example, http://localhost:3000",
            ("https://a.example", "http://localhost:3000"),
        ),
        ("http://[::1]:80,", ("http://[::1]:80",)),
    ),
    "log_format": (("json", "json"), ("text", "text")),
    "strip": (("true", "true"), ("false", "false")),
    "role": (("api", "api"), ("worker", "worker")),
    "s3_region": (("eu-west-1", "eu-west-1"), ("auto", "auto")),
    "target": (("s3://one", "s3://one"), ("s3://two/i", "s3://two/i")),
}

# Options that other options require.
BESIDE = {
    "IMGUR_CLIENT_ID": "beside",
    "IMGUR_CLIENT_SECRET": "beside",
    "IMGUR_REFRESH_TOKEN": "beside",
    "IMAGELOAD_STORE": "postgresql://127.0.0.1/beside",
    "IMAGELOAD_TARGET": "s3://beside",
    "AWS_ACCESS_KEY_ID": "beside",
    "AWS_SECRET_ACCESS_KEY": "beside",
}


def help_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> str:
    """The output of --help, each option on one line."""
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], environ)
    assert caught.value.code == 0
    return capsys.readouterr().out


def complaint(
    capsys: pytest.CaptureFixture[str], arguments: list[str], environ: dict[str, str]
) -> str:
    """The last line on stderr of a start that is refused."""
    with pytest.raises(SystemExit) as caught:
        parse(arguments, environ)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_without_flags_and_environment_every_option_has_its_default() -> None:
    assert parse([], {}) == Settings()
    assert parse([], {"HOME": "/home/somebody", "PORT": "1"}) == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_beats_the_environment_which_beats_the_default(name: str) -> None:
    (option,) = [option for option in options() if option.name == name]
    environment, given = NARROWER.get(name) or SAMPLES[option.metadata["unit"]]
    environ = {**BESIDE, environment_name(name): environment[0]}
    from_environment = getattr(parse([], environ), name)
    assert from_environment == environment[1]
    assert option.default is None or type(from_environment) is type(option.default)
    arguments = [f"{flag(name)}={given[0]}"]
    assert getattr(parse(arguments, environ), name) == given[1]
    assert getattr(parse(arguments, BESIDE), name) == given[1]


def test_a_flag_and_its_value_may_be_two_arguments() -> None:
    assert parse(["--port", "9000"], {}).port == 9000


def test_the_old_name_of_the_store_still_works() -> None:
    assert parse(["--journal=a"], {}).store == "a"
    assert parse([], {"IMAGELOAD_JOURNAL": "a"}).store == "a"
    assert parse([], {"IMAGELOAD_JOURNAL": "a", "IMAGELOAD_STORE": "b"}).store == "b"
    assert parse(["--journal=a"], {"IMAGELOAD_STORE": "b"}).store == "a"


def test_a_number_is_an_option_or_tuning_and_never_both() -> None:
    assert not {field.name for field in fields(Tuning)} & {*NAMES}
    assert Tuning() == Tuning(origin_ports=(80, 443))


def test_help_has_a_title_for_each_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_text(capsys, monkeypatch, {}).splitlines()
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and line[0] != " "]
    assert titles == ["options", *GROUPS]
    assert {option.metadata["group"] for option in options()} == {*GROUPS}


@pytest.mark.parametrize("name", NAMES)
def test_names_follow_from_the_option(name: str) -> None:
    assert flag(name) == "--" + name.replace("_", "-")
    prefix = "" if name.startswith(("imgur_", "aws_")) else "IMAGELOAD_"
    assert environment_name(name) == prefix + name.upper()


def test_the_imgur_options_are_read_from_their_usual_environment_names() -> None:
    assert environment_name("imgur_client_id") == "IMGUR_CLIENT_ID"
    assert environment_name("max_bytes") == "IMAGELOAD_MAX_BYTES"
    assert parse([], {"IMGUR_CLIENT_ID": "abc"}).imgur_client_id == "abc"
    with pytest.raises(SystemExit):
        parse([], {"IMGUR_CLIENT_ID": " "})
    assert parse([], {"IMAGELOAD_IMGUR_CLIENT_ID": "abc"}).imgur_client_id == ""


@pytest.mark.parametrize("name", NAMES)
def test_help_has_every_option_with_its_effect_unit_default_and_environment_name(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (option,) = [option for option in options() if option.name == name]
    lines = help_text(capsys, monkeypatch, {}).splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == [flag(name)])
    entry = " ".join(lines[at : at + 2])  # a long flag has its text on the next line
    assert option.metadata["effect"] in entry
    assert f"Unit: {option.metadata['unit']}; default: " in entry
    assert re.search(rf"environment: {environment_name(name)}\b", entry)


def test_help_shows_the_defaults_as_they_would_be_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_text(capsys, monkeypatch, {})
    for expected in (
        "Unit: port; default: 8888;",
        "Unit: true or false; default: true;",
        "Unit: seconds; default: 25;",
        "Unit: names; default: none;",
        "Unit: bytes; default: 20971520;",
    ):
        assert expected in text


def test_help_prints_nothing_that_is_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {environment_name(name): f"s3cret-{name}" for name in NAMES}
    assert "s3cret" not in help_text(capsys, monkeypatch, environ)


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port=many"], "argument --port: 'many' is not valid; give: port"),
        (["--port=65536"], "argument --port: '65536' is not valid; give: port"),
        (["--port=-1"], "argument --port: '-1' is not valid; give: port"),
        (["--max-urls=0"], "argument --max-urls: '0' is not valid; give: count"),
        (["--max-urls=1.5"], "argument --max-urls: '1.5' is not valid; give: count"),
        (["--max-bytes=20MB"], "argument --max-bytes: '20MB' is not valid; give: bytes"),
        (["--upload-seconds=0"], "argument --upload-seconds: '0' is not valid; give: seconds"),
        (["--upload-seconds=-1"], "argument --upload-seconds: '-1' is not valid; give: seconds"),
        (["--upload-seconds=inf"], "--upload-seconds: 'inf' is not valid; give: seconds"),
        (["--upload-seconds=nan"], "--upload-seconds: 'nan' is not valid; give: seconds"),
        (["--sandbox-limits=maybe"], "'maybe' is not valid; give: true or false"),
        (["--unknown-job-status=200"], "--unknown-job-status must be 505 or 404"),
        (["--unknown-job-status=x"], "'x' is not valid; give: status"),
        (["--log-level=LOUD"], "--log-level must be DEBUG, INFO, WARNING or ERROR"),
        (["--imgur-base-url=ftp://a/"], "--imgur-base-url must be an http or https URL"),
        (["--imgur-anonymous=false"], "--imgur-anonymous=false needs IMGUR_REFRESH_TOKEN"),
        (
            ["--imgur-refresh-token=s3cret"],
            "IMGUR_REFRESH_TOKEN needs IMGUR_CLIENT_SECRET beside it",
        ),
        (["--per-host=0"], "argument --per-host: '0' is not valid; give: count"),
        (
            ["--convert=perhaps"],
            "argument --convert: 'perhaps' is not valid; give: true or false",
        ),
        (["--colour=blue"], "unrecognized arguments: --colour=blue"),
        (["--por=8888"], "unrecognized arguments: --por=8888"),
        (["8888"], "unrecognized arguments: 8888"),
        (["--port"], "argument --port: expected one argument"),
    ],
)
def test_misuse_of_a_flag_exits_with_2_and_a_message(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, arguments, {})
    assert line.startswith("main.py: error: ")
    assert line.endswith(sentence)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("IMAGELOAD_PORT", "many"),
        ("IMAGELOAD_MAX_TRIES", "0"),
        ("IMAGELOAD_LOG_LEVEL", "LOUD"),
        ("IMGUR_ANONYMOUS", "maybe"),
    ],
)
def test_misuse_of_the_environment_ends_as_that_of_a_flag(
    variable: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = [name for name in NAMES if environment_name(name) == variable]
    assert flag(name) in complaint(capsys, [], {variable: text})


def test_a_flag_overrides_a_wrong_value_in_the_environment() -> None:
    assert parse(["--port=9000"], {"IMAGELOAD_PORT": "many"}).port == 9000


def test_misuse_exits_with_a_message_and_no_traceback() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "main.py", "--max-urls=none"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert "main.py: error: argument --max-urls: 'none' is not valid" in run.stderr
    assert "Traceback" not in run.stderr


def test_secrets_are_in_no_repr() -> None:
    environ = {environment_name(name): f"s3cret-{name}" for name in SECRETS}
    settings = parse([], environ)
    for name in SECRETS:
        assert getattr(settings, name) in (f"s3cret-{name}", (f"s3cret-{name}",))
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)
    assert "port=8888" in repr(settings)


def test_secrets_are_in_no_complaint(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {environment_name(name): f"s3cret-{name}" for name in SECRETS}
    with pytest.raises(SystemExit):
        parse(["--log-level=LOUD"], environ)
    assert "s3cret" not in capsys.readouterr().err


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(Settings(), NAMES[0], 1)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"log_level": "LOUD"}, "--log-level"),
        ({"unknown_job_status": 200}, "--unknown-job-status"),
        ({"imgur_anonymous": False}, "--imgur-anonymous"),
        ({"imgur_refresh_token": "t"}, "IMGUR_CLIENT_SECRET"),
        ({"imgur_base_url": "api.imgur.com"}, "--imgur-base-url"),
        ({"client_ids": ("one", "two")}, "IMGUR_CLIENT_ID, which is not set"),
        ({"imgur_client_id": "  "}, "is blank or has a space"),
        ({"imgur_client_id": "a\r\nb"}, "is blank or has a space"),
        ({"imgur_client_id": "one", "client_ids": ("t wo",)}, "is blank or has a space"),
        ({"imgur_client_id": "one", "client_ids": (" =5/5",)}, "is blank or has a space"),
        ({"imgur_client_id": "one", "client_ids": ("",)}, "--client-ids are written as id"),
        ({"imgur_client_id": "one", "client_ids": ("two", "one=9/9")}, "the same id twice"),
        ({"imgur_client_id": "one", "client_ids": ("two", "two")}, "the same id twice"),
        ({"imgur_client_id": "one=500/many"}, "IMGUR_CLIENT_ID and --client-ids are written as"),
        ({"imgur_client_id": "one=9/9", "client_ids": ("one",)}, "the same id twice"),
        ({"reject_sha256": ("ab" * 31,)}, "--reject-sha256"),
        ({"cors_origin": ("https://a.example/",)}, "--cors-origin"),
        ({"cors_origin": ("*",)}, "--cors-origin"),
        ({"api_token": ("two words",)}, "--api-token"),
    ],
)
def test_settings_that_contradict_each_other_cannot_be_made(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(**values)


def test_by_default_the_guard_allows_nothing_and_the_service_listens_on_this_machine() -> None:
    assert Settings().allow_origin == ()
    assert Settings().address == "127.0.0.1"
    assert Settings().imgur_anonymous
