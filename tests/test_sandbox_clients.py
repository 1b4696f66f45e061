"""Clients made for Imgur upload to the sandbox, unmodified.

They believe they speak to https://api.imgur.com: the name leads to 127.0.0.1 and the certificate
is one of a private authority, and nothing of the client is changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from PIL import Image

from sandbox.testing import RunningSandbox, running_sandbox
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and cert.pem and key.pem for Imgur's two names."""
    place = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(place / "ca.pem"))
    issued = ca.issue_cert("api.imgur.com", "i.imgur.com")
    issued.private_key_pem.write_to_path(str(place / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(place / "cert.pem"), append=True)
    return place


@pytest.fixture
def imgur(tmp_path: Path, authority: Path) -> Iterator[RunningSandbox]:
    """The sandbox under Imgur's names, over TLS."""
    with running_sandbox(
        tmp_path / "sandbox",
        cert=str(authority / "cert.pem"),
        key=str(authority / "key.pem"),
        link_base="https://i.imgur.com",
    ) as running:
        yield running


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A real JPEG file."""
    out = io.BytesIO()
    Image.effect_noise((200, 150), 60).save(out, "JPEG")
    path = tmp_path / "image.jpg"
    path.write_bytes(out.getvalue())
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------ imgurpython

UPLOAD = """
import json, sys
from imgurpython import ImgurClient
client = ImgurClient("an-id", "a-secret")
told = client.upload_from_path(sys.argv[-1], {"title": "t", "name": "n"})
client.delete_image(client.upload_from_path(sys.argv[-1])["deletehash"])
print(json.dumps([told, client.get_image(told["id"]).title, client.credits]))
"""

# Replaces a line in /etc/hosts and a redirected port, for this process only.
HOSTS = """
import socket, sys
_getaddrinfo = socket.getaddrinfo
def getaddrinfo(host, port, *rest, **more):
    assert (host, port) == ("api.imgur.com", 443), (host, port)
    return _getaddrinfo("127.0.0.1", int(sys.argv[1]), *rest, **more)
socket.getaddrinfo = getaddrinfo
"""

API_URL = """
import sys, imgurpython.client
imgurpython.client.API_URL = sys.argv[1] + "/"
"""


def run_python(program: str, *arguments: str, **environment: str) -> str:
    """The output of a program that runs without proxies and ~/.netrc."""
    inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env={**inherited, "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imgurpython_as_published_uploads_to_the_name_api_imgur_com(
    imgur: RunningSandbox, authority: Path, image: Path
) -> None:
    printed = run_python(
        HOSTS + UPLOAD,
        str(imgur.port),
        str(image),
        REQUESTS_CA_BUNDLE=str(authority / "ca.pem"),
    )
    told, title, credit = json.loads(printed)
    assert told["link"] == f"https://i.imgur.com/{told['id']}.jpg"
    assert (told["name"], title) == ("n", "t")
    assert imgur.stats()["stored"] == {digest(image): 2}
    assert [kept["id"] for kept in imgur.images()] == [told["id"]]
    # credits 1, two uploads 20, one deletion 1, one look 1; as text, the way it reads headers
    assert credit["UserRemaining"] == str(500 - 23)


def test_imgurpython_uploads_when_its_api_url_is_set(tmp_path: Path, image: Path) -> None:
    with running_sandbox(tmp_path / "sandbox") as running:
        told, _, _ = json.loads(run_python(API_URL + UPLOAD, running.url, str(image)))
        assert told["link"] == f"{running.url}/{told['id']}.jpg"
        assert running.content(told["id"]) == image.read_bytes()
        assert running.stats()["connections"] == 5, "it opens a connection for each call"


REFRESH = """
import json, sys
from imgurpython import ImgurClient
client = ImgurClient("an-id", "a-secret", "expired", "a-refresh-token")
print(json.dumps(client.upload_from_path(sys.argv[-1], anon=False)))
"""


def test_imgurpython_refreshes_a_token_that_the_sandbox_calls_invalid(
    tmp_path: Path, image: Path
) -> None:
    with running_sandbox(tmp_path / "sandbox") as running:
        told = json.loads(run_python(API_URL + REFRESH, running.url, str(image)))
        assert told["account_url"] == "sandbox"
        assert running.stats()["oauth_refreshes"] == 1


LIMITED = """
import sys
from imgurpython import ImgurClient
from imgurpython.helpers.error import ImgurClientError, ImgurClientRateLimitError
client = ImgurClient("an-id", "a-secret")
for _ in range(3):
    try:
        print(client.upload_from_path(sys.argv[-1])["type"])
    except ImgurClientRateLimitError:
        print("limited")
    except ImgurClientError as error:
        print(error.status_code, error.error_message)
"""


def test_imgurpython_raises_its_own_errors_for_the_sandboxs(tmp_path: Path, image: Path) -> None:
    with running_sandbox(tmp_path / "sandbox", user_credits=21) as running:
        running.fault("forbidden")
        printed = run_python(API_URL + LIMITED, running.url, str(image))
    assert printed.splitlines() == ["400 These actions are forbidden.", "image/jpeg", "image/jpeg"]
    with running_sandbox(tmp_path / "sandbox", user_credits=21) as running:
        printed = run_python(API_URL + LIMITED, running.url, str(image))
    assert printed.splitlines() == ["image/jpeg", "image/jpeg", "limited"]


# ------------------------------------------------------------------------------------------- curl


def curl(imgur: RunningSandbox, authority: Path, *arguments: str) -> bytes:
    """The output of curl with Imgur's two names resolved to the sandbox."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl here")
    done = subprocess.run(
        [
            *(program, "-q", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"),
            *("--cacert", str(authority / "ca.pem")),
            *("--connect-to", f"api.imgur.com:443:127.0.0.1:{imgur.port}"),
            *("--connect-to", f"i.imgur.com:443:127.0.0.1:{imgur.port}"),
            *arguments,
        ],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


API = "https://api.imgur.com/3/image"
AS = ("-H", "Authorization: Client-ID x")


def test_curl_uploads_to_api_imgur_com_and_reads_from_i_imgur_com(
    imgur: RunningSandbox, authority: Path, image: Path
) -> None:
    told = json.loads(curl(imgur, authority, *AS, "-F", f"image=@{image}", API))["data"]
    assert told["link"].startswith("https://i.imgur.com/")
    assert curl(imgur, authority, told["link"]) == image.read_bytes()


def test_curl_sends_expect_100_over_a_megabyte(
    imgur: RunningSandbox, authority: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.effect_noise((1300, 1000), 80).save(large, compress_level=1)
    assert large.stat().st_size > 1024 * 1024
    told = json.loads(curl(imgur, authority, *AS, "-F", f"image=@{large}", API))["data"]
    assert imgur.content(told["id"]) == large.read_bytes()


def test_curl_learns_that_its_file_is_over_the_limit(
    imgur: RunningSandbox, authority: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(20 * 1024 * 1024))
    told = json.loads(curl(imgur, authority, *AS, "-F", f"image=@{large}", API))
    assert (told["status"], told["data"]["error"]) == (413, "file is over the size limit")


def test_curl_uploads_raw_bytes_with_the_content_type_of_an_image(
    imgur: RunningSandbox, authority: Path, image: Path
) -> None:
    as_image = (*AS, "-H", "Content-Type: image/jpeg")
    told = json.loads(curl(imgur, authority, *as_image, "--data-binary", f"@{image}", API))
    assert imgur.content(told["data"]["id"]) == image.read_bytes()


def test_imgur_sh_reads_its_xml(imgur: RunningSandbox, authority: Path, image: Path) -> None:
    """tremby/imgur.sh posts to /3/image.xml and cuts the link out with sed."""
    told = curl(imgur, authority, *AS, "-F", f"image=@{image}", f"{API}.xml").decode()
    link = told.partition("<link>")[2].partition("</link>")[0]
    assert curl(imgur, authority, link) == image.read_bytes()
