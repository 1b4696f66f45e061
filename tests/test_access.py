"""Tests of web.access: host names, pages of other sites, tokens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from imageload.settings import Settings
from imageload.web.access import read_tokens
from main import ROUTES
from tests.service import ROOT, RunningService, ServiceProcess, assert_problem, running_service
from tests.waiting import PATIENCE
from tests.wire import PATH, Wire

APP = "https://app.example"
TOKENS = ("first-token", "second/token==")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service on a loopback address that allows one site."""
    folder = tmp_path_factory.mktemp("temp")
    with running_service(folder / "t", cors_origin=(APP,)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that requires a token."""
    folder = tmp_path_factory.mktemp("temp")
    with running_service(folder / "t", cors_origin=(APP,), api_token=TOKENS) as running:
        yield running


def ask(
    service: RunningService, method: str = "GET", path: str = "/v1/images", **fields: str
) -> requests.Response:
    """Send the headers (`_` for `-`), and a body if the method has one."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    body = '["ftp://a.example/"]' if method == "POST" else None
    path = PATH if method == "POST" else path
    return requests.request(
        method, service.url + path, headers=headers, data=body, timeout=PATIENCE
    )


# Host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST:8888",
        "localhost.",
        "a.localhost:80",
        "[::1]:8888",
    ],
)
def test_a_service_on_loopback_accepts_loopback_names(service: RunningService, host: str) -> None:
    assert ask(service, Host=host).status_code == 200


@pytest.mark.parametrize("host", ["10.1.2.3", "10.1.2.3:80", "[2001:db8::1]"])
def test_an_ip_address_in_host_is_accepted(service: RunningService, host: str) -> None:
    assert ask(service, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8888",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "1.2",
    ],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/images", "/nothing"])
def test_a_rebound_name_cannot_read(service: RunningService, host: str, path: str) -> None:
    assert_problem(ask(service, path=path, Host=host), 421, "unknown-host")


def test_a_rebound_name_cannot_post(service: RunningService) -> None:
    before = service.get(PATH).json()
    host = "evil.example:8888"
    answer = ask(service, "POST", Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")
    assert_problem(answer, 421, "unknown-host")
    assert service.get(PATH).json() == before


def test_a_proxys_name_is_allowed_by_option(tmp_path: Path) -> None:
    with running_service(tmp_path / "t", allow_host=("Images.example",)) as service:
        assert ask(service, Host="images.example").status_code == 200
        assert ask(service, Host="localhost").status_code == 200
        assert ask(service, Host="www.images.example").status_code == 421


def test_on_other_addresses_any_name_is_accepted_unless_names_are_listed(tmp_path: Path) -> None:
    with running_service(tmp_path / "t", address="0.0.0.0") as service:
        assert ask(service, Host="any.example").status_code == 200
    with running_service(tmp_path / "t", address="0.0.0.0", allow_host=("a.example",)) as service:
        assert ask(service, Host="a.example").status_code == 200
        assert ask(service, Host="any.example").status_code == 421


# Origin


def test_a_post_without_origin_is_accepted(service: RunningService) -> None:
    assert ask(service, "POST").status_code == 202


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[", "Content_Type": "text/plain"},
        {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://127.0.0.1", "Sec_Fetch_Site": "same-site"},
        {"Origin": "https://app.example.evil.example"},
        {"Origin": "http://app.example"},
        {"Origin": f"{APP}:8443"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_a_post_from_another_sites_page_is_refused(
    service: RunningService, fields: dict[str, str]
) -> None:
    before = [job["job_id"] for job in service.get(PATH).json()["jobs"]]
    answer = ask(service, "POST", **fields)
    assert_problem(answer, 403, "cross-origin")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert [job["job_id"] for job in service.get(PATH).json()["jobs"]] == before


def test_the_services_own_page_may_post(service: RunningService) -> None:
    assert ask(service, "POST", Origin=service.url).status_code == 202
    behind_tls = {"Host": "localhost", "Origin": "https://localhost"}
    assert ask(service, "POST", **behind_tls).status_code == 202
    # A proxy has changed Host; the browser still says whose page it is.
    fields = {"Origin": "https://images.example", "Sec_Fetch_Site": "same-origin"}
    assert ask(service, "POST", **fields).status_code == 202


def test_a_listed_site_may_post_and_read(service: RunningService) -> None:
    for method in ("POST", "GET"):
        answer = ask(service, method, Origin=APP, Sec_Fetch_Site="cross-site")
        assert answer.status_code in (200, 202)
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert "Origin" in answer.headers["Vary"]
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"Location", "Link", "Retry-After", "ETag", "X-Request-ID"} <= set(exposed)
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_listed_site_may_read_a_refusal(service: RunningService) -> None:
    answer = ask(service, path="/nothing", Origin=APP)
    assert_problem(answer, 404, "not-found")
    assert answer.headers["Access-Control-Allow-Origin"] == APP


def test_no_other_site_may_read(service: RunningService) -> None:
    answer = ask(service, Origin="https://evil.example")
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Vary"].startswith("Origin")  # a cache must not mix the two up
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_preflight_lists_the_rights_of_a_listed_site(service: RunningService) -> None:
    fields = {
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "authorization,content-type,idempotency-key",
    }
    answer = ask(service, "OPTIONS", PATH, Origin=APP, **fields)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert "POST" in answer.headers["Access-Control-Allow-Methods"].split(", ")
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key"} <= set(allowed)
    other = ask(service, "OPTIONS", PATH, Origin="https://evil.example", **fields)
    assert other.status_code == 204
    assert not [name for name in other.headers if name.startswith("Access-Control")]


def test_without_the_option_there_are_no_cors_headers(tmp_path: Path) -> None:
    with running_service(tmp_path / "t") as service:
        answer = ask(service, Origin=APP)
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
        assert ask(service, "POST", Origin=APP).status_code == 403


# Tokens


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_any_token_is_accepted(guarded: RunningService, token: str, scheme: str) -> None:
    assert ask(guarded, Authorization=f"{scheme} {token}").status_code == 200
    assert ask(guarded, "POST", Authorization=f"{scheme} {token}").status_code == 202


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_request_without_a_token_is_refused(guarded: RunningService, method: str) -> None:
    answer = ask(guarded, method)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="imageload"'
    if method != "HEAD":
        assert_problem(answer, 401, "unauthorized")


def test_a_refused_request_ends_its_connection(guarded: RunningService) -> None:
    with Wire(guarded.url) as wire:
        wire.send(b"GET /v1/images HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = wire.last_answer()
        assert (answer.status, answer.fields["connection"]) == (401, "close")


@pytest.mark.parametrize(
    "shown",
    ["Bearer wrong", "Bearer", "Bearer ", "Bearer first-token,second/token==", "Bearer first-toke"],
)
def test_a_wrong_token_is_refused(guarded: RunningService, shown: str) -> None:
    answer = ask(guarded, Authorization=shown)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    assert "first-token" not in answer.text


@pytest.mark.parametrize("shown", ["first-token", "Basic Zmlyc3Q6dG9rZW4=", "Token first-token"])
def test_another_scheme_is_refused(guarded: RunningService, shown: str) -> None:
    assert ask(guarded, Authorization=shown).status_code == 401


def test_every_path_of_the_api_requires_a_token(guarded: RunningService) -> None:
    for path in ("/v1/images", PATH, f"{PATH}?jobId=a", f"{PATH}/a", f"{PATH}/:a/images"):
        assert ask(guarded, path=path).status_code == 401, path


def test_only_pages_and_probes_need_no_token(
    guarded: RunningService,
) -> None:
    is_open = {path for path, handler in ROUTES if handler.is_open}
    files = {"/page/{file}", "/openapi.json"}
    assert is_open == {"/", "/docs", "/healthz", "/readyz"} | files
    for path in ("/", "/page/page.js", "/docs", "/openapi.json", "/healthz", "/readyz"):
        assert ask(guarded, path=path).status_code == 200


def test_a_preflight_needs_no_token(guarded: RunningService) -> None:
    answer = ask(guarded, "OPTIONS", PATH, Origin=APP, Access_Control_Request_Method="POST")
    assert answer.status_code == 204
    refused = ask(guarded, Origin=APP)
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == APP


def test_a_large_body_without_a_token_is_refused_before_it_is_read(
    guarded: RunningService,
) -> None:
    answer = requests.post(guarded.url + PATH, data=b"x" * 20_000_000, timeout=PATIENCE)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["Connection"] == "close"


def test_tokens_are_read_from_a_file_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# ours\nfirst-token\n\n  second/token==  \r\n", encoding="utf-8")
    assert read_tokens(Settings(api_token_file=str(file))) == list(TOKENS)
    both = Settings(api_token=("third",), api_token_file=str(file))
    assert read_tokens(both) == ["third", *TOKENS]


@pytest.mark.parametrize("text", ["", "\n# only\n", "two words\n", "good\nschlüssel\n"])
def test_a_file_without_tokens_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OSError, match="tokens") as caught:
        read_tokens(Settings(api_token_file=str(file)))
    assert "schl" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_tokens(Settings(api_token_file=str(tmp_path / "missing")))


def test_a_start_without_tokens_on_all_addresses_logs_a_warning(tmp_path: Path) -> None:
    for address, says in (("0.0.0.0", True), ("127.0.0.1", False)):
        process = ServiceProcess(
            "--port=0", f"--address={address}", f"--temp-dir={tmp_path}", "--imgur-client-id=x"
        )
        assert process.stop() == 0
        assert ("see --api-token" in "".join(process.log)) is says


def test_a_bad_token_file_ends_the_start_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, words in (("empty", "not a file of tokens"), ("missing", "No such file")):
        start = [sys.executable, "main.py", "--port=0", "--imgur-client-id=x"]
        ended = subprocess.run(
            [*start, f"--api-token-file={tmp_path / name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 1
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_token_is_in_no_log_line(tmp_path: Path) -> None:
    process = ServiceProcess(
        "--port=0",
        "--log-level=DEBUG",
        f"--temp-dir={tmp_path}",
        environment={"IMAGELOAD_API_TOKEN": "5ecret-1", "IMGUR_CLIENT_ID": "x"},
    )
    try:
        for token, status in (("5ecret-1", 200), ("5ecret-2", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert process.get("/v1/images", headers=headers).status_code == status
    finally:
        process.stop()
    assert "5ecret" not in "".join(process.log)
    assert " 401 " in "".join(process.log)
