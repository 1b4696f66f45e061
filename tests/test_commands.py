"""Every command in the documents is run, as a reader would run it, line by line.

A document is one shell session in a folder like a clone. Ports and the URLs of others are replaced
by what there is here; `curl` fails on an answer that is an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.testing import RunningSandbox
from tests.components import real_component
from tests.origin import Origin
from tests.postgres import fresh_database

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DATABASE = "postgresql://imageload@db.example/imageload"
JOB_ID = "4227cacf-2ee1-4b52-b231-110304c4e203"

NOT_RUN = {
    "python3 -m venv .venv": "test_packaging.py makes an environment by this line",
    ".venv/bin/pip install '.[cli]'": "test_packaging.py installs the package by this line",
    ".venv/bin/python -m pip install -r requirements.txt": "the tests have it done already",
    "python3 -m venv .venv && .venv/bin/python -m pip install -r requirements-cluster.txt": (
        "the same"
    ),
    'make test TESTS="tests/test_retry.py -k tries"': "these tests are run by it",
    ".venv/bin/python -m pytest tests/test_retry.py -k tries": "the same",
    ".venv/bin/python -m tests.picture": "changes the repository",
    "rm -rf dist && .venv/bin/python -m build": "test_packaging.py builds without a network",
    "python3 -m venv /tmp/trial": "test_packaging.py installs the package by the README's lines",
    "/tmp/trial/bin/pip install dist/imageload-*.whl": "the same",
    "cd /tmp && trial/bin/imageload upload --local https://www.gnu.org/graphics/gnu-head.jpg": (
        "test_packaging.py has a job of the installed package"
    ),
    "make cluster": "runs until Ctrl-C, beside other terminals; test_cluster.py has its parts",
    "sudo -u postgres createuser --pwprompt imageload": "needs a server that is set up; "
    "fresh_database() has both",
    "sudo -u postgres createdb --owner=imageload --encoding=UTF8 --template=template0 imageload": (
        "the same"
    ),
    f".venv/bin/python main.py --role=worker --port=8890 --store={DATABASE}": "serves beside the "
    "API; test_cluster.py runs both",
}
SERVERS = re.compile(
    r"^(?:\w+=\S+ )*(?:make run|\S*imageload serve|"
    r"\S*python3? (?:main\.py|-m (?:sandbox|http\.server)))"
)
SETUP = """
set -euo pipefail
curl() { command curl --fail-with-body --silent --show-error --max-time 60 "$@"; }
answers() { command curl --silent --output answer "http://127.0.0.1:$1/"; }
# Start a server on the port, in place of the last one, and wait until it responds.
start() {
    if [ -n "${server[$1]:-}" ]; then
        kill -- "-${server[$1]}"
        while answers "$1"; do sleep 0.1; done
    fi
    set -m; eval "$2" >>"server-$1.log" 2>&1 & server[$1]=$!; set +m
    for _ in $(seq 600); do
        if answers "$1"; then return; fi
        if ! kill -0 "${server[$1]}"; then break; fi
        sleep 0.1
    done
    cat "server-$1.log"; return 1
}
server=()
finish() { for group in "${server[@]}"; do kill -- "-$group" 2>/dev/null || true; done; }
trap finish EXIT
"""


def commands(document: Path) -> list[str]:
    """The lines of the document's shell blocks, and the commands in its tables of tasks."""
    text = document.read_text(encoding="utf-8")
    pattern = r"^ *```sh\n(.*?)^ *```|^\| task \| command \|\n(.*?)\n\n"
    lines: list[str] = []
    for block, table in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        lines += [line.strip() for line in block.splitlines()]
        lines += re.findall(r"\| `(.*)` \|$", table, re.MULTILINE)
    return [line for line in lines if line and not line.startswith("#")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@dataclass(frozen=True)
class Reader:
    """Runs the commands of a document in a clone in `folder`."""

    folder: Path
    environment: dict[str, str]
    replaced: dict[str, str]

    def script(self, lines: list[str]) -> str:
        """The shell script: it prints each line and ends at the first failure."""
        found = [SETUP]
        for line in lines:
            here = line
            for theirs, ours in self.replaced.items():
                here = here.replace(theirs, ours)
            found.append(f"printf '\\n+ %s\\n' {shlex.quote(here)}")
            if SERVERS.match(line):
                port = self._port(line)
                found.append(f"start {port} {shlex.quote(here)}")
            else:
                found.append(here)
        return "\n".join(found) + "\n"

    def _port(self, line: str) -> str:
        if "http.server" in line:
            return self.replaced[":8000"].removeprefix(":")
        return self.replaced["8889"] if "-m sandbox" in line else self.environment["PORT"]

    def follow(self, lines: list[str]) -> str:
        """Run the lines; return the output."""
        process = subprocess.Popen(
            ["bash", "-c", self.script(lines)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, printed
        return printed


@pytest.fixture
def reader(tmp_path: Path, origin: Origin, sandbox: RunningSandbox) -> Reader:
    """A folder like a clone in which `make test` was run once, and the programs on the PATH."""
    real_component("curl")
    clone, programs = tmp_path / "clone", tmp_path / "bin"
    (clone / ".venv" / "bin").mkdir(parents=True)
    programs.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", ".imageload", ".sandbox"):
            (clone / path.name).symlink_to(path)
    (clone / "urls.txt").write_text(f"{origin.image('png-rgb.png')}\n")
    (clone / "notes").mkdir()
    (clone / "notes" / "bird.md").write_text(f"![]({origin.image('jpeg-baseline.jpg')})\n")
    (clone / "birds.md").write_text(f"![A bird]({origin.image('jpeg-baseline.jpg')})\n")
    for program, call in (
        (clone / ".venv" / "bin" / "python", '"$@"'),
        (clone / ".venv" / "bin" / "imageload", '-m imageload "$@"'),
        (programs / "python", '"$@"'),
        (programs / "python3", '"$@"'),
        (programs / "imageload", '-m imageload "$@"'),
        (programs / "pbcopy", "-c 'import sys; assert sys.stdin.read()'"),
    ):
        program.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {call}\n")
        program.chmod(0o755)
    for stamp in (".made", ".run", ".dev"):  # in this order, as make compares them
        (clone / ".venv" / stamp).touch()
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("IMGUR_", "IMAGELOAD_"))}
    environment = {
        **{k: v for k, v in inherited.items() if not k.startswith(("MAKE", "MFLAGS", "PYTEST"))},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PORT": str(port),
        "IMAGELOAD_PORT": str(port),
        "IMAGELOAD_SANDBOX_PORT": "0",
        "IMAGELOAD_ALLOW_ORIGIN": "127.0.0.1",
        "IMAGELOAD_SERVER": f"http://127.0.0.1:{port}",
        "IMGUR_BASE_URL": sandbox.url,
        "IMGUR_LINK_BASE": sandbox.url,
        "AWS_ACCESS_KEY_ID": "not-one",
        "AWS_SECRET_ACCESS_KEY": "not-one",
    }
    replaced = {
        ":8888": f":{port}",
        "8889": str(free_port()),
        ":8000": f":{free_port()}",
        "0.0.0.0": "127.0.0.1",
        "https://www.python.org/static/img/python-logo.png": origin.image("png-rgb.png"),
        "https://www.gnu.org/graphics/gnu-head.jpg": origin.image("jpeg-baseline.jpg"),
        "https://us.example/bird.jpg": origin.image("jpeg-progressive.jpg"),
        "https://us.example/cat.png": origin.image("png-rgb.png"),
    }
    replaced["server 8000"] = "server " + replaced[":8000"].removeprefix(":")
    return Reader(clone, environment, replaced)


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if commands(path)], ids=lambda path: path.stem
)
def test_every_command_of_a_document_works(document: Path, reader: Reader) -> None:
    lines = commands(document)
    to_run = [line for line in lines if line not in NOT_RUN]
    if to_run and not any(SERVERS.match(line) for line in to_run):
        # Such a document presumes a service, and a job whose id it knows, also of a document.
        first = 'curl -d @urls.txt -H "Content-Type: text/plain" http://127.0.0.1:8888/v1/documents'
        find = """python3 -c 'import json, sys; print(json.load(sys.stdin)["jobId"][0])'"""
        serve = "IMGUR_CLIENT_ID=0123456789abcde make run"
        to_run = [serve, f"JOB=$({first} | {find})", *to_run]
        to_run = [_with_job(line) for line in to_run]
    if any(DATABASE in line for line in to_run):
        reader.replaced[DATABASE] = fresh_database()
    printed = reader.follow(to_run)
    assert printed.count("\n+ ") == len(to_run)


def _with_job(line: str) -> str:
    """The line with the job that there is, also within quotes."""
    return re.sub(rf"'([^' ]*){JOB_ID}([^' ]*)'", r'"\1$JOB\2"', line).replace(JOB_ID, "$JOB")


def test_every_command_that_is_not_run_is_in_a_document() -> None:
    written = {line for document in DOCUMENTS for line in commands(document)}
    assert set(NOT_RUN) <= written
