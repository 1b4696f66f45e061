"""The command as a process: in a pipe, on a terminal, interrupted, and with --local."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sandbox.testing import RunningSandbox
from tests.cli import ROOT, in_a_pipe, on_a_terminal
from tests.contract import JOB, running_contract
from tests.origin import IMAGES, Origin, answer
from tests.relay import running_relay
from tests.service import MAIN, RunningService, ServiceProcess
from tests.waiting import PATIENCE, wait_until

COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Gate:
    """A page that sends its image once `open` is set; `reached` is set by its first request."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE)
        answer((IMAGES / "png-rgb.png").read_bytes())(connection)


@pytest.fixture
def gate(origin: Origin) -> Gate:
    """The page /gate of the origin."""
    gate = Gate()
    origin.page("/gate", gate)
    return gate


# in a pipe


def test_in_a_pipe_progress_is_printed_in_plain_lines(
    service: RunningService, origin: Origin, gate: Gate
) -> None:
    urls = f"{origin.image('gif-89a.gif')}\n{origin.url}/gate\n".encode()
    with in_a_pipe("upload", "-", stdin=urls, IMAGELOAD_SERVER=service.url) as command:
        command.wait_for(" of 2 landed\n")
        gate.open.set()
        assert command.end() == 0
        assert len(command.output().splitlines()) == 2
        (job_id,) = service.service.image_load.job_list_s
        assert command.shown.splitlines()[0] == f"imageload: job {job_id}"
        assert command.shown.splitlines()[-1] == "imageload: 2 of 2 landed"
        assert "\x1b" not in command.shown


def test_ctrl_c_leaves_the_job_running_and_prints_the_watch_command(
    service: RunningService, origin: Origin, gate: Gate
) -> None:
    with in_a_pipe("upload", f"--server={service.url}", f"{origin.url}/gate") as command:
        command.wait_for("0 of 1 landed")
        command.interrupt()
        assert command.end() == 130
        (job_id,) = service.service.image_load.job_list_s
        back = f"python -m imageload watch {job_id} --server={service.url}"
        assert command.shown.endswith(f"The job continues. Come back with: {back}\n")
    gate.open.set()
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 1


def test_a_job_is_followed_across_a_disconnect(
    service: RunningService, origin: Origin, gate: Gate
) -> None:
    with (
        running_relay(service.url) as relay,
        in_a_pipe("upload", f"--server={relay.url}", f"{origin.url}/gate") as command,
    ):
        command.wait_for("0 of 1 landed")
        relay.take_away()
        command.wait_for(f"No answer from {relay.url}: ")
        assert "Trying again for 60 s." in command.shown
        relay.bring_back()
        command.wait_for("The service answers again.")
        gate.open.set()
        assert command.end() == 0
        assert len(command.output().splitlines()) == 1


def test_an_unreachable_service_ends_the_command_after_its_patience(
    service: RunningService, origin: Origin, gate: Gate
) -> None:
    with running_relay(service.url) as relay:
        server = f"--server={relay.url}"
        with in_a_pipe("upload", server, "--patience=0.3", f"{origin.url}/gate") as command:
            command.wait_for("0 of 1 landed")
            relay.take_away()
            assert command.end() == 1
            last = command.shown.splitlines()[-1]
            assert last.startswith(f"imageload: No answer from {relay.url}: Connection refused.")
            assert "Come back with: python -m imageload watch " in last
            assert "Traceback" not in command.shown
    gate.open.set()


def test_a_closed_pipe_causes_no_traceback(service: RunningService) -> None:
    service.finish(service.submit([f"no-url-{number}-{'x' * 200}" for number in range(1_500)]))
    (job_id,) = service.service.image_load.job_list_s
    command = ["links", "--format=csv", f"--server={service.url}", job_id]
    with subprocess.Popen(
        [sys.executable, "-m", "imageload", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE


def test_a_full_disk_is_reported_in_a_message(service: RunningService) -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("needs /dev/full")
    with device.open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "imageload", "jobs", f"--server={service.url}"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    assert (ended.returncode, ended.stderr) == (1, b"imageload: No space left on device\n")


# on a terminal


def test_a_terminal_shows_a_bar_and_gets_its_cursor_back(
    service: RunningService, origin: Origin, gate: Gate
) -> None:
    urls = [origin.image("png-rgb.png"), f"{origin.url}/gate", f"{origin.url}/gone"]
    with on_a_terminal("upload", "--no-dedupe", *urls, IMAGELOAD_SERVER=service.url) as command:
        command.wait_for("2/3")
        assert HIDE_CURSOR in command.shown
        command.wait_for("1 failed")
        gate.open.set()
        command.wait_for("3/3")
        assert command.end() == 1
        after = command.shown.rpartition(SHOW_CURSOR)[2]
        assert after.count("http://") == 3  # two links, and the URL that failed
        assert COLOUR.search(command.shown)


def test_the_bar_shows_the_remaining_time_except_while_the_job_waits() -> None:
    counts = {"total": 4, "pending": 2, "completed": 2, "failed": 0}
    until = datetime.now(UTC).replace(microsecond=0)
    waiting = {"counts": counts, "waiting_for": "user", "waiting_until": until.isoformat()}
    over = {"counts": {**counts, "pending": 0, "completed": 4}, "finished": True}
    with running_contract() as contract:
        contract.put_job({}, {"counts": {**counts, "pending": 3, "completed": 1}})
        contract.put_job({"counts": counts}, *[waiting] * 3, over)
        contract.put(f"GET /v1/images/upload/{JOB}/images", {"images": []})
        with on_a_terminal("watch", JOB, IMAGELOAD_SERVER=contract.url) as command:
            command.wait_for(" left")
            command.wait_for("waiting")
            assert command.end() == 0
    shown, _, rest = COLOURS.sub("", command.shown).partition("Waiting for Imgur's hourly budget")
    assert f"until {until.astimezone():%H:%M:%S %Z}." in rest
    assert re.search(r"2/4 +0:00:\d\d +0:00:\d\d left", shown)
    assert re.search(r"2/4 +0:00:\d\d +waiting", rest)
    assert re.search(r"4/4 +0:00:\d\d *\r?\n", rest)
    assert " left" not in rest


def test_ctrl_c_on_a_terminal_prints_the_watch_command(
    service: RunningService, origin: Origin, gate: Gate
) -> None:
    with on_a_terminal("upload", "-", IMAGELOAD_SERVER=service.url) as command:
        command.wait_for("Ctrl-D ends the list.")
        command.press(f"{origin.url}/gate\n\x04".encode())
        command.wait_for("0/1")
        command.press(b"\x03")
        assert command.end() == 130
        after = command.shown.rpartition(SHOW_CURSOR)[2]
        (job_id,) = service.service.image_load.job_list_s
        assert f"The job continues. Come back with: python -m imageload watch {job_id}\r\n" in after
    gate.open.set()


def test_no_color_is_respected(service: RunningService, origin: Origin) -> None:
    url = origin.image("png-rgb.png")
    with on_a_terminal("upload", url, IMAGELOAD_SERVER=service.url, NO_COLOR="1") as command:
        assert command.end() == 0
        assert "1/1" in command.shown
        assert not COLOUR.search(command.shown)


def test_control_characters_of_a_url_do_not_reach_the_terminal(service: RunningService) -> None:
    job_id = service.submit(["http://x.example/\x1b]0;owned\x07\x1b[2J\u202egnp.exe[bold red]"])
    service.finish(job_id)
    harmless = r"http://x.example/\x1b]0;owned\x07\x1b[2J\u202egnp.exe[bold red]"
    server = service.url
    with on_a_terminal(
        "watch", "--format=csv", job_id, TERM="dumb", IMAGELOAD_SERVER=server
    ) as command:
        assert command.end() == 1
        assert command.shown.count(harmless) == 2  # in the table and among the failures
        assert not {"\x1b", "\x07", "\u202e"} & set(command.shown)


# with a service of its own


def local(sandbox: RunningSandbox) -> list[str]:
    """The service options, after `--`, for uploads to `sandbox`."""
    imgur = [f"--imgur-base-url={sandbox.url}", f"--imgur-link-base={sandbox.url}"]
    return ["--", "--allow-origin=127.0.0.1", "--imgur-client-id=test", *imgur]


def test_local_needs_no_server(sandbox: RunningSandbox, origin: Origin, tmp_path: Path) -> None:
    urls = [origin.image("png-rgb.png"), f"{origin.url}/gone"]
    temp = str(tmp_path)
    with in_a_pipe("upload", "--local", *urls, *local(sandbox), TMPDIR=temp) as command:
        assert command.end() == 1
        (image,) = sandbox.images()
        assert command.output() == f"{sandbox.url}/{image['id']}.png\n"
        assert f"failed http_status {origin.url}/gone" in command.shown
        assert list(tmp_path.glob("imageload-*")) == []


def test_local_takes_its_options_from_the_environment_and_a_sandbox_of_its_own(
    origin: Origin, tmp_path: Path
) -> None:
    url, folder = origin.image("png-rgb.png"), tmp_path / "sandbox"
    with in_a_pipe(
        "upload",
        "--local",
        url,
        IMAGELOAD_ALLOW_ORIGIN="127.0.0.1",
        IMAGELOAD_SANDBOX_DIR=str(folder),
    ) as command:
        assert command.end() == 0
        assert "the sandbox stands in for Imgur" in command.shown
        assert any(folder.iterdir())


def test_ctrl_c_ends_local_work_and_lists_the_unfinished_urls(
    sandbox: RunningSandbox, origin: Origin, gate: Gate, tmp_path: Path
) -> None:
    file = tmp_path / "failed.txt"
    urls = [origin.image("png-rgb.png"), f"{origin.url}/gate"]
    options = [f"--failed-to={file}", *urls, *local(sandbox)]
    with in_a_pipe("upload", "--local", *options, TMPDIR=str(tmp_path)) as command:
        sandbox.wait_for("upload")
        assert gate.reached.wait(PATIENCE)
        command.interrupt()
        assert command.end() == 130
        assert f"cancelled {origin.url}/gate" in command.shown
    assert f"{origin.url}/gate\n" in file.read_text()
    assert list(tmp_path.glob("imageload-*")) == []
    gate.open.set()


def test_a_killed_command_leaves_no_service_behind(
    sandbox: RunningSandbox, origin: Origin, gate: Gate, tmp_path: Path
) -> None:
    options = [f"{origin.url}/gate", *local(sandbox)]
    with in_a_pipe("upload", "--local", *options, TMPDIR=str(tmp_path)) as command:
        assert gate.reached.wait(PATIENCE)
        assert list(tmp_path.glob("imageload-*"))
        command.process.kill()
        command.end()
        wait_until(lambda: list(tmp_path.glob("imageload-*")) == [])
    gate.open.set()


def test_sigterm_leaves_no_temp_files_of_local_work(
    sandbox: RunningSandbox, origin: Origin, gate: Gate, tmp_path: Path
) -> None:
    options = [f"{origin.url}/gate", *local(sandbox)]
    with in_a_pipe("upload", "--local", *options, TMPDIR=str(tmp_path)) as command:
        assert gate.reached.wait(PATIENCE)
        command.process.terminate()
        assert command.end() == 128 + signal.SIGTERM
        assert list(tmp_path.glob("imageload-*")) == []
    gate.open.set()


def test_an_address_that_is_none_is_misuse_of_a_service_option() -> None:
    options = ["--imgur-client-id=test", "--allow-origin=300.1.2.3/99"]
    with in_a_pipe("upload", "--local", "http://x/", "--", *options) as command:
        assert command.end() == 2
        assert "--allow-origin, --deny-origin" in command.shown
        assert "Traceback" not in command.shown


def test_the_command_and_the_service_as_they_are_started_work_together(
    origin: Origin, tmp_path: Path
) -> None:
    folder = f"--sandbox-dir={tmp_path}"
    service = ServiceProcess(
        *("--port=0", "--sandbox-port=0", "--allow-origin=127.0.0.1", folder), command=MAIN
    )
    try:
        with in_a_pipe(
            "upload", origin.image("gif-89a.gif"), IMAGELOAD_SERVER=service.url
        ) as ended:
            assert ended.end() == 0
            assert ended.output().endswith(".gif\n")
    finally:
        service.stop()
