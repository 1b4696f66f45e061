"""The files in deploy/ are right: with a real nginx and systemd, where the machine has them."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from imageload import options
from sandbox.testing import RunningSandbox
from tests.events import Subscriber
from tests.nginx import LISTEN, running_nginx
from tests.origin import IMAGES, Origin, Page, answer
from tests.postgres import fresh_database
from tests.service import ROOT, Client, RunningService, running_service, wired
from tests.waiting import PATIENCE

DEPLOY = ROOT / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def pair(sandbox: RunningSandbox, tmp_path: Path) -> Iterator[list[RunningService]]:
    """Two nodes on one database."""
    options = wired(sandbox, store=fresh_database())
    with (
        running_service(tmp_path / "one", **options) as one,
        running_service(tmp_path / "two", **options) as two,
    ):
        yield [one, two]


def proxy(pair: list[RunningService], *dead: str) -> str:
    """deploy/nginx.conf with these nodes, and with addresses at which nothing listens."""
    config = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    addresses = [*dead, *(node.url.removeprefix("http://") for node in pair)]
    servers = "".join(f"server {address};" for address in addresses)
    config, count = re.subn(r"(    server api-\d:8888;\n)+", servers, config)
    assert count == 1
    return config.replace("listen 80;", f"listen {LISTEN};")


def test_nodes_behind_nginx_are_one_service_and_a_dead_one_is_left_out(
    pair: list[RunningService], origin: Origin, tmp_path: Path
) -> None:
    # Port 1 of this machine refuses connections.
    with running_nginx(tmp_path, proxy(pair, "127.0.0.1:1")) as url:
        client = Client(url)
        job_ids = [client.submit([origin.image("png-rgb.png")]) for _ in range(6)]
        links = [client.finish(job_id)["uploaded"]["completed"] for job_id in job_ids]
        assert all(links)
        # Requests go to the nodes in turn, and each node has every job.
        assert [client.status(job_id)["finished"] for job_id in job_ids] == [True] * 6
        assert client.get("/metrics").status_code == 404
        client.close()


def test_events_come_through_nginx_as_they_happen(
    pair: list[RunningService], origin: Origin, tmp_path: Path
) -> None:
    picture = (IMAGES / "png-rgb.png").read_bytes()
    release = [threading.Event() for _ in range(4)]

    def held(event: threading.Event) -> Page:
        def page(connection: socket.socket) -> None:
            assert event.wait(PATIENCE)
            answer(picture)(connection)

        return page

    urls = [origin.page(f"/{n}.png", held(event)) for n, event in enumerate(release)]
    with running_nginx(tmp_path, proxy(pair[:1])) as url:
        job_id = pair[1].submit(urls, dedupe=False)
        with Subscriber(f"{url}/v1/images/upload/{job_id}/events") as stream:
            for event in release:
                event.set()
                stream.until("image")
            stream.until("complete")


def test_every_option_in_these_files_exists() -> None:
    known = {options.environment_name(option.name) for option in options.options()}
    for path in DEPLOY.iterdir():
        named = re.findall(r"\b(?:IMAGELOAD|IMGUR)_[A-Z_]+", path.read_text(encoding="utf-8"))
        assert set(named) <= known, path


def test_compose_starts_the_nodes_that_nginx_names() -> None:
    services = COMPOSE["services"]
    config = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    servers = re.findall(r"^    server (\S+):8888;", config, re.MULTILINE)
    assert servers == [*services["nginx"]["depends_on"]]
    roles = {
        name: service["environment"]["IMAGELOAD_ROLE"]
        for name, service in services.items()
        if service["image"] == "imageload-cluster"
    }
    assert roles == {**dict.fromkeys(servers, "api"), "worker": "worker"}
    build = services[servers[0]]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / build["context"] / build["args"]["REQUIREMENTS"]).is_file()


def test_no_secret_of_compose_has_a_default() -> None:
    secrets = re.findall(r"\$\{(\w+)(.*?)\}", (DEPLOY / "compose.yaml").read_text("utf-8"))
    example = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")
    assert {name for name, _ in secrets} == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    assert all(rule.startswith(":?") or rule == ":-" for _, rule in secrets)


def test_nodes_are_confined_as_the_service_of_one_machine_is() -> None:
    confined = {
        re.findall(r"^(NoNewPrivileges=.*UMask=\d+)$", (DEPLOY / unit).read_text("utf-8"), 24)[0]
        for unit in UNITS
    }
    assert len(UNITS) == 3
    assert len(confined) == 1


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        pytest.skip("needs systemd-analyze")
    text = (DEPLOY / unit).read_text(encoding="utf-8")
    program = "/opt/imageload/.venv/bin/python"
    assert f"ExecStart={program} main.py" in text
    copy = tmp_path / unit.replace("@", "@8888")
    copy.write_text(text.replace(program, "/bin/sh"))
    done = subprocess.run(
        [systemd, "verify", copy], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
