"""The whole, with everything real: nginx as origin, the sandbox as Imgur, the process itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from imageload.job import Job
from imageload.store.opening import open_store
from sandbox.testing import RunningSandbox
from tests.forks import ForkedProcess
from tests.nginx import LISTEN, running_nginx
from tests.origin import IMAGES, Origin, answer, raw, redirect, reset
from tests.service import MAIN, ROOT, SOURCE, RunningService, ServiceProcess, running_service
from tests.waiting import PATIENCE, wait_until

GOOD = sorted(
    path.name
    for pattern in ("png-*.png", "jpeg-*.jpg", "gif-*.gif", "tiff-*.tif", "apng-*.png")
    for path in IMAGES.glob(pattern)
    if path.name not in ("jpeg-progressive-cut-short.jpg", "jpeg-ultrahdr-gain-map.jpg")
)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServiceProcess]:
    """`python main.py` with its own sandbox, as `make run` starts it."""
    running = ServiceProcess(
        "--port=0",
        "--sandbox-port=0",
        f"--sandbox-dir={tmp_path / 'sandbox'}",
        f"--temp-dir={tmp_path}",
        "--allow-origin=127.0.0.1",
        command=MAIN,
    )
    yield running
    running.stop()


def test_real_images_from_a_real_nginx_are_uploaded_byte_for_byte(
    process: ServiceProcess, tmp_path: Path
) -> None:
    names = [n for n in GOOD if n.partition("-")[0] in ("png", "jpeg", "gif", "tiff", "apng")]
    with running_nginx(tmp_path, f"server {{ listen {LISTEN}; root {IMAGES}; }}") as origin:
        job_id = process.submit([f"{origin}/{name}" for name in names])
        status = process.finish(job_id)
        records = process.records(job_id)
    assert status["uploaded"]["failed"] == []
    assert len({record["type"] for record in records.values()}) == 5
    links = status["uploaded"]["completed"]
    stored = requests.get(f"{links[0].rpartition('/')[0]}/sandbox/images", timeout=PATIENCE).json()
    sent = {image["id"]: image["sha256"] for image in stored["images"]}
    for name, link in zip(names, links, strict=True):
        image_id = link.rpartition("/")[2].partition(".")[0]
        assert sent[image_id] == hashlib.sha256((IMAGES / name).read_bytes()).hexdigest()
        assert requests.get(link, timeout=PATIENCE).headers["Content-Type"].startswith("image/")
    assert not [path for path in tmp_path.glob("imageload-*/tmp*") if path.stat().st_size]


TEN_WAYS: dict[str, tuple[str, Callable[[Origin], str]]] = {
    "missing": ("http_status", lambda o: o.image("missing-{n}.png")),
    "error": ("http_status", lambda o: o.page("/e", answer(b"x", "500 Oops")) + "?{n}"),
    "html": ("not_image", lambda o: o.image("not-images/page.html") + "?{n}"),
    "empty": ("empty_body", lambda o: o.image("not-images/empty") + "?{n}"),
    "cut": ("truncated", lambda o: o.page("/cut", answer(b"\x89PNG", length=99)) + "?{n}"),
    "loop": ("too_many_redirects", lambda o: o.page("/l", redirect("/l?{n}")) + "?{n}"),
    "reset": ("connect_error", lambda o: o.page("/reset", reset) + "?{n}"),
    "odd": ("bad_response", lambda o: o.page("/odd", raw(b"what?\r\n\r\n")) + "?{n}"),
    "scheme": ("invalid_url", lambda _: "ftp://127.0.0.1/{n}.png"),
    "private": ("blocked_address", lambda _: "http://10.0.0.1/{n}.png"),
}


def test_500_urls_a_tenth_of_them_bad_in_ten_ways(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    urls = [f"{origin.image(GOOD[n % len(GOOD)])}?{n}" for n in range(450)]
    expected = {}
    for number, (code, make) in enumerate(TEN_WAYS.values()):
        for again in range(5):
            url = make(origin).replace("{n}", str(again))
            urls.insert(number * 40 + again * 7, url)
            expected[url] = code
    assert len(urls) == 500
    job_id = service.submit(urls, dedupe=False)
    polls = 0
    while True:
        status = service.status(job_id)
        lists = status["uploaded"]
        assert sum(len(entries) for entries in lists.values()) == 500
        polls += 1
        if status["finished"]:
            break
    assert polls > 3
    assert lists["failed"] == [url for url in urls if url in expected]
    records = service.records(job_id)
    assert {url: records[url]["error"]["code"] for url in expected} == expected
    assert all(records[url]["error"]["message"].endswith(".") for url in expected)
    assert len(lists["completed"]) == 450
    assert len(set(lists["completed"])) == 450
    wait_until(lambda: service.temp_files == [])
    assert len(sandbox.images()) == 450


@pytest.mark.parametrize(
    ("fault", "code", "tries"),
    [("reset_after_body", "upload_error", 2), ("no_link", "upload_error", 1)],
)
def test_faults_that_hang_naive_clients_fail_the_images(
    tmp_path: Path,
    origin: Origin,
    sandbox: RunningSandbox,
    fault: str,
    code: str,
    tries: int,
) -> None:
    sandbox.fault(fault, count=0)
    urls = [f"{origin.image('png-rgb.png')}?{n}" for n in range(20)]
    to_sandbox = {"imgur_base_url": sandbox.url, "imgur_link_base": sandbox.url}
    with running_service(tmp_path / "t", outage_seconds=0.5, **to_sandbox) as service:
        job_id = service.submit(urls, dedupe=False)
        status = service.finish(job_id)
        assert status["uploaded"] == {"pending": [], "completed": [], "failed": urls}
        for record in service.records(job_id).values():
            assert record["error"]["code"] == code
            assert 1 <= record["attempts"] <= tries
        assert sandbox.stats()["requests"]["upload"] <= 20 * tries
        wait_until(lambda: service.temp_files == [])


def test_transient_errors_are_retried(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("503", count=2)
    busy = iter([answer(b"", "503 Busy"), reset])
    page = answer((IMAGES / "png-rgb.png").read_bytes())
    url = origin.page("/a", lambda connection: next(busy, page)(connection))
    job_id = service.submit([url])
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    assert service.records(job_id)[url]["attempts"] == 3


def test_hanging_origins_delay_no_other_host(
    origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with running_service(
        tmp_path / "t",
        imgur_base_url=sandbox.url,
        imgur_link_base=sandbox.url,
        downloads=8,
        uploads=8,
    ) as service:
        hanging = origin.page("/hang", origin.hang)
        for job in range(2):
            service.submit([f"{hanging}?{job}-{n}" for n in range(1_000)])
        for _ in range(6):  # of 8 threads the first job gets 4, the second 2
            assert origin.hanging.acquire(timeout=PATIENCE)
        for name in ("png-rgb.png", "gif-89a.gif"):
            status = service.finish(service.submit([origin.image(name)]))
            assert len(status["uploaded"]["completed"]) == 1
        origin.released.set()


def test_a_small_job_overtakes_a_large_one(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    large = service.submit([f"{origin.image('png-rgb.png')}?{n}" for n in range(3_000)])
    small = service.submit([origin.image("gif-89a.gif")])
    service.finish(small)
    assert not service.status(large)["finished"]
    del sandbox


def test_the_first_log_line_says_that_the_sandbox_answers(process: ServiceProcess) -> None:
    assert "the sandbox stands in for Imgur" in process.log[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_in_mid_job(
    process: ServiceProcess, origin: Origin, tmp_path: Path, number: int
) -> None:
    process.submit([f"{origin.page('/hang', origin.hang)}?{n}" for n in range(50)])
    assert origin.hanging.acquire(timeout=PATIENCE)
    assert process.stop(number) == 0
    log = "".join(process.log)
    assert "Traceback" not in log
    assert "code=shutdown" in log
    assert list(tmp_path.glob("imageload-*")) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(_sandbox_url(process), timeout=PATIENCE)


def test_a_stop_finishes_uploads_in_flight_and_starts_nothing(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    process = ServiceProcess(
        "--port=0",
        "--allow-origin=127.0.0.1",
        f"--temp-dir={tmp_path}",
        f"--imgur-base-url={sandbox.url}",
        f"--imgur-link-base={sandbox.url}",
        environment={"IMGUR_CLIENT_ID": "test"},
    )
    first = process.submit([origin.image("gif-89a.gif")])
    process.finish(first)
    sandbox.fault("slow_answer", seconds=3.0, count=0)  # the second round would begin then
    job_id = process.submit(
        [f"{origin.image('png-rgb.png')}?{n}" for n in range(200)], dedupe=False
    )
    wait_until(lambda: len(sandbox.images()) > 4)  # stored, and not answered yet
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.get("/readyz").status_code == 503)
    assert process.get("/readyz").json()["status"] == "stopping"
    refused = process.post(json=["http://127.0.0.1/"])
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert process.get("/healthz").status_code == 200
    assert process.status(job_id)["status"] == "in-progress"
    assert process.process.wait(PATIENCE) == 0
    process.stop()
    log = "".join(process.log)
    counts = re.search(rf"complete job={job_id} completed=(\d+) failed=(\d+)", log)
    assert counts is not None
    assert 3 < int(counts[1]) <= 32
    assert int(counts[1]) + int(counts[2]) == 200
    assert len(sandbox.images()) == int(counts[1]) + 1, "no answer was lost"
    assert "code=shutdown" in log
    assert list(tmp_path.glob("imageload-*")) == []


def test_a_second_signal_ends_it_at_once(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    process = ServiceProcess(
        "--port=0",
        "--allow-origin=127.0.0.1",
        f"--temp-dir={tmp_path}",
        f"--imgur-base-url={sandbox.url}",
        environment={"IMGUR_CLIENT_ID": "test"},
    )
    sandbox.fault("hang", count=0)
    process.submit([origin.image("png-rgb.png")])
    sandbox.wait_for("upload")
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.get("/readyz").status_code == 503)
    assert process.stop(signal.SIGINT) == 1


@contextlib.contextmanager
def slow_start(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service that waits in its start until a token is written to the descriptor."""
    os.mkfifo(tmp_path / "tokens")
    arguments = ["--port=0", "--imgur-client-id=x", f"--temp-dir={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "main.py", *arguments, f"--api-token-file={tmp_path / 'tokens'}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    descriptors: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):
            descriptors.append(os.open(tmp_path / "tokens", os.O_WRONLY | os.O_NONBLOCK))
        return bool(descriptors)

    try:
        wait_until(is_read)
        yield process, descriptors[0]
    finally:
        process.kill()
        process.communicate()


def test_a_second_signal_ends_a_slow_start_at_once(tmp_path: Path) -> None:
    with slow_start(tmp_path) as (process, descriptor):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # two equal signals may arrive as one
        assert process.wait(PATIENCE) == 1
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_slow_start_stops_it_cleanly(tmp_path: Path, number: int) -> None:
    with slow_start(tmp_path) as (process, descriptor):
        process.send_signal(number)
        os.write(descriptor, b"token")
        os.close(descriptor)
        assert "Traceback" not in process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0
    assert list(tmp_path.glob("imageload-*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_start_of_the_sandbox_leaves_nothing(
    tmp_path: Path, number: int
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "main.py",
            "--port=0",
            "--sandbox-port=0",
            f"--sandbox-dir={tmp_path / 'sandbox'}",
            f"--temp-dir={tmp_path}",
        ],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.startswith("IMGUR_")},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(list(tmp_path.glob("imageload-*"))))
    process.send_signal(number)
    assert "Traceback" not in process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0
    assert list(tmp_path.glob("imageload-*")) == []


def test_the_sandbox_does_not_outlive_a_killed_service(process: ServiceProcess) -> None:
    url = _sandbox_url(process)
    assert requests.get(url, timeout=PATIENCE).status_code == 200
    process.stop(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(requests.ConnectionError):
        while time.monotonic() < deadline:
            requests.get(url, timeout=PATIENCE)
            time.sleep(0.05)  # polls: the end of an orphan sends no event
        pytest.fail("the sandbox is still there")


def _sandbox_url(process: ServiceProcess) -> str:
    return process.log[0].partition(" at ")[2].partition(",")[0]


def _main(*arguments: str) -> subprocess.CompletedProcess[str]:
    """How a service ends that does not start."""
    process = ForkedProcess(SOURCE, arguments, os.environ)
    with process.stderr:
        stderr = process.stderr.read()
    return subprocess.CompletedProcess(process.args, process.wait(PATIENCE), stderr=stderr)


def test_a_port_in_use_ends_the_start_with_a_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = _main(f"--port={port}", "--imgur-client-id=x", f"--temp-dir={tmp_path}")
        assert result.returncode == 1
        assert f"cannot start: port {port} is in use. --port sets another" in result.stderr
        assert "Traceback" not in result.stderr
        result = _main("--port=0", f"--sandbox-port={port}", f"--temp-dir={tmp_path}")
        assert result.returncode == 1
        assert "--sandbox-port sets another" in result.stderr
        assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_network_or_temp_directory_ends_the_start_with_a_message(tmp_path: Path) -> None:
    result = _main("--imgur-client-id=x", "--allow-origin=not/a/host", f"--temp-dir={tmp_path}")
    assert result.returncode == 2
    assert "not/a/host" in result.stderr
    result = _main("--imgur-client-id=x", f"--temp-dir={tmp_path}/missing")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "wrong", ["--port", "--deny-origin", "--callback-secret", "--api-token-file"]
)
def test_a_start_that_fails_is_not_counted_as_a_crash(tmp_path: Path, wrong: str) -> None:
    """Jobs that were at work in five crashes in a row are given up."""
    (tmp_path / "empty").touch()
    journal = tmp_path / "journal"
    store = open_store(str(journal)).store
    store.accept([Job(["ftp://no.image/"])])
    store.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        value = {
            "--port": taken.getsockname()[1],
            "--deny-origin": "not/a/host",
            "--callback-secret": "whsec_",
            "--api-token-file": tmp_path / "empty",
        }[wrong]
        result = _main("--imgur-client-id=x", f"--store={journal}", f"{wrong}={value}")
    assert result.returncode in (1, 2)
    restored = open_store(str(journal))
    assert restored.was_closed
    restored.store.close()


def test_the_client_id_is_in_no_log_line(origin: Origin, tmp_path: Path) -> None:
    secret = "5ecre7c1ient1d"
    origin.page("/3/upload", answer(b'{"data":{"error":"Invalid client_id"}}', "403 Forbidden"))
    process = ServiceProcess(
        "--port=0",
        "--log-level=DEBUG",
        "--allow-origin=127.0.0.1",
        f"--imgur-base-url={origin.url}",
        f"--temp-dir={tmp_path}",
        environment={"IMGUR_CLIENT_ID": secret},
    )
    try:
        url = origin.image("png-rgb.png") + "?token=abc"
        job_id = process.submit([url])
        wait_until(lambda: process.get("/readyz").status_code == 503)
        assert process.get("/readyz").json()["waiting_for"] == "credentials"
        assert [each["url"] for each in process.status(job_id)["uploaded"]["pending"]] == [url]
    finally:
        process.stop()
    assert secret not in "".join(process.log)
    assert "token=abc" not in "".join(process.log)


def test_twenty_jobs_with_the_same_urls_download_each_image_once(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    urls = [
        origin.page(f"/{n}", answer((IMAGES / "png-palette.png").read_bytes() + b"%d" % n))
        for n in range(50)
    ]
    answered = service.post(json={"urls": [urls] * 20})
    for job_id in answered.json()["jobId"]:
        status = service.finish(job_id)
        assert len(status["uploaded"]["completed"]) == 50
    assert sum(origin.requests.values()) == 50
    assert sandbox.stats()["requests"]["upload"] == 50
    assert len(service.get("/v1/images").json()["uploaded"]) == 1_000
    reused = [
        record["reused"]
        for job_id in answered.json()["jobId"]
        for record in service.records(job_id).values()
    ]
    assert reused.count(False) == 50
    assert service.temp_files == []


def test_the_same_bytes_under_another_url_are_not_uploaded_again(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    url = origin.image("png-rgb.png")
    first = service.finish(service.submit([url]))["uploaded"]["completed"]
    job_id = service.submit([f"{url}?again", f"{url}?and-again"])
    assert service.finish(job_id)["uploaded"]["completed"] == first * 2
    assert all(record["reused"] for record in service.records(job_id).values())
    assert origin.requests.total() == 3
    fresh = service.finish(service.submit([url], dedupe=False))["uploaded"]["completed"]
    assert fresh != first
    assert len(sandbox.images()) == 2


def test_a_dead_origin_with_5000_urls_fails_in_seconds(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with running_service(
        tmp_path / "t",
        imgur_base_url=sandbox.url,
        imgur_link_base=sandbox.url,
        allow_origin=("127.0.0.0/8",),
        host_failures=5,
        host_rest_seconds=0.1,
        host_give_up_seconds=1.0,
    ) as service:
        dead = [f"http://127.0.0.2:{port}/{n}.png" for n in range(5_000)]
        job_id = service.submit([*dead, origin.image("png-rgb.png")])
        status = service.finish(job_id)
        assert len(status["uploaded"]["completed"]) == 1
        codes = {
            record["error"]["code"]
            for url, record in service.records(job_id).items()
            if url in set(dead[:50])
        }
        assert codes == {"connect_error"}


def test_retry_after_of_a_busy_origin_is_kept(service: RunningService, origin: Origin) -> None:
    asked: list[float] = []
    page = answer((IMAGES / "png-rgb.png").read_bytes())

    def busy(connection: socket.socket) -> None:
        asked.append(time.monotonic())
        first = answer(b"", "429 Too Many Requests", Retry_After="1")
        (first if len(asked) == 1 else page)(connection)

    job_id = service.submit([origin.page("/busy", busy)])
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    assert asked[1] - asked[0] >= 0.9


@pytest.mark.parametrize(
    ("name", "kind", "becomes"),
    [
        ("webp-lossy-vp8.webp", "image/webp", "image/jpeg"),
        ("webp-lossless-vp8l.webp", "image/webp", "image/png"),
        ("webp-animated.webp", "image/webp", "image/gif"),
        ("avif-still.avif", "image/avif", "image/jpeg"),
        ("heic-still.heic", "image/heic", "image/jpeg"),
        ("bmp-v5.bmp", "image/bmp", "image/png"),
    ],
)
def test_types_that_imgur_refuses_are_converted(
    service: RunningService, origin: Origin, name: str, kind: str, becomes: str
) -> None:
    url = origin.image(name)
    job_id = service.submit([url])
    (link,) = service.finish(job_id)["uploaded"]["completed"]
    record = service.records(job_id)[url]
    assert (record["converted_from"], record["type"]) == (kind, becomes)
    assert requests.get(link, timeout=PATIENCE).headers["Content-Type"] == becomes
    assert service.temp_files == []


def test_conversion_may_be_off(sandbox: RunningSandbox, origin: Origin, tmp_path: Path) -> None:
    with running_service(tmp_path / "t", imgur_base_url=sandbox.url, convert=False) as service:
        url = origin.image("avif-still.avif")
        job_id = service.submit([url])
        assert service.finish(job_id)["uploaded"]["failed"] == [url]
        assert service.records(job_id)[url]["error"]["code"] == "unsupported_type"
        assert service.temp_files == []
        assert sandbox.images() == []


@pytest.mark.parametrize("shrink", [False, True])
def test_an_image_over_imgurs_size_is_refused_or_shrunk(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path, shrink: bool
) -> None:
    with running_service(
        tmp_path / "t",
        imgur_base_url=sandbox.url,
        imgur_link_base=sandbox.url,
        imgur_max_bytes=10_000,
        shrink=shrink,
    ) as service:
        url = origin.image("png-rgb.png")
        job_id = service.submit([url])
        service.finish(job_id)
        record = service.records(job_id)[url]
        if shrink:
            assert record["state"] == "completed"
            assert record["bytes"] <= 10_000
        else:
            assert record["error"]["code"] == "too_large"
        assert service.temp_files == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs the whole of 127.0.0.0/8")
def test_a_thousand_hanging_hosts_leave_the_api_and_other_jobs_quick(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        hosts = [f"127.0.{1 + n // 250}.{1 + n % 250}" for n in range(1_000)]
        first = stack.enter_context(socket.create_server((hosts[0], 0)))
        port = first.getsockname()[1]
        for host in hosts[1:]:
            stack.enter_context(socket.create_server((host, port)))
        service = stack.enter_context(
            running_service(
                tmp_path / "t",
                imgur_base_url=sandbox.url,
                imgur_link_base=sandbox.url,
                allow_origin=("127.0.0.0/8",),
            )
        )
        hanging = service.submit([f"http://{host}:{port}/a.png" for host in hosts])
        for name in ("png-rgb.png", "gif-89a.gif", "jpeg-baseline.jpg"):
            status = service.finish(service.submit([origin.image(name)]))
            assert len(status["uploaded"]["completed"]) == 1
        assert service.get("/healthz").status_code == 200
        assert not service.status(hanging)["finished"]


def test_a_live_host_whose_redirects_lead_to_dead_ones_keeps_its_good_images(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    with running_service(
        tmp_path / "t",
        imgur_base_url=sandbox.url,
        imgur_link_base=sandbox.url,
        host_failures=3,
        host_rest_seconds=1.0,
        host_give_up_seconds=0.5,
        allow_origin=("127.0.0.0/8",),
    ) as service:
        with socket.create_server(("127.0.0.2", 0)) as listening:
            port = listening.getsockname()[1]
        gone = origin.page("/gone", redirect(f"http://127.0.0.2:{port}/a.png"))
        good = [f"{origin.image('png-rgb.png')}?{n}" for n in range(30)]
        urls = [url for n in range(30) for url in (f"{gone}?{n}", good[n])]
        status = service.finish(service.submit(urls))
        assert len(status["uploaded"]["completed"]) == 30


def test_options_may_have_umlauts(sandbox: RunningSandbox, origin: Origin, tmp_path: Path) -> None:
    with running_service(
        tmp_path / "t",
        imgur_base_url=sandbox.url,
        imgur_link_base=sandbox.url,
        user_agent="Jürgens Archiv",
    ) as service:
        status = service.finish(service.submit([origin.image("png-rgb.png")]))
        assert len(status["uploaded"]["completed"]) == 1
    assert "Jürgens".encode().decode("latin-1") in origin.heads[0]
