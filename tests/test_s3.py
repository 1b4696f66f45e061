"""Tests of a bucket as the target: the whole service, with a real S3 server."""

from __future__ import annotations

import email.header
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from imageload.options import parse
from tests.origin import IMAGES, Origin, answer
from tests.photographs import PHOTOGRAPHS
from tests.photographs import SECRET as PLANTED
from tests.postgres import fresh_database
from tests.s3_kill import killed_once, pictures
from tests.s3_server import KEY_ID, SECRET, Answer, Received, S3Server, xml
from tests.service import MAIN, RunningService, ServiceProcess, assert_problem, running_service
from tests.waiting import PATIENCE, wait_until

AS_THEY_ARE = (
    "avif-still.avif",
    "webp-lossy-vp8.webp",
    "heic-still.heic",
    "bmp-v4.bmp",
    "png-rgb.png",
)


def name_of(image: bytes, extension: str) -> str:
    """The object of an image without texts."""
    return f"{hashlib.sha256(image).hexdigest()}.{extension}"


def large_png() -> bytes:
    """A PNG of more than a megabyte."""
    return (IMAGES / "png-rgb.png").read_bytes() + bytes(2**20)


def purge(service: RunningService | ServiceProcess, job_id: str) -> dict[str, Any]:
    """Undo the job; its status then."""
    url = f"{service.url}/v1/images/upload/{job_id}?purge=true"
    assert service.session.delete(url, timeout=PATIENCE).status_code == 202
    return service.finish(job_id)


def test_images_land_as_they_are_under_their_hash(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    urls = [origin.image(name) for name in AS_THEY_ARE]
    with running_service(tmp_path / "temp", **s3.options()) as service:
        job_id = service.submit(urls)
        status = service.finish(job_id)
        records = service.records(job_id)
    assert status["uploaded"]["failed"] == []
    for name, url in zip(AS_THEY_ARE, urls, strict=True):
        image = (IMAGES / name).read_bytes()
        assert requests.get(records[url]["link"], timeout=PATIENCE).content == image
        assert s3.objects()[name_of(image, name.rpartition(".")[2])] == image
        assert records[url]["converted_from"] is None
    for put in s3.sent("PUT"):
        assert put.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert put.headers["content-type"].startswith("image/")
        assert put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_photographs_lose_their_metadata_on_their_way_to_a_bucket(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    photographs = [make() for _, make in PHOTOGRAPHS.values()]
    assert all(PLANTED in photograph for photograph in photographs)
    urls = [origin.page(f"/{n}", answer(each)) for n, each in enumerate(photographs)]
    with running_service(tmp_path / "temp", **s3.options(strip="auto")) as service:
        status = service.finish(service.submit(urls))
    assert status["uploaded"]["failed"] == []
    assert len(s3.objects()) == len(photographs)
    assert not any(PLANTED in image for image in s3.objects().values())


def test_an_image_of_more_than_ten_megabytes_lands(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    url = origin.page("/large.png", answer((IMAGES / "png-rgb.png").read_bytes() + bytes(11 << 20)))
    with running_service(tmp_path / "temp", **s3.options()) as service:
        assert service.finish(service.submit([url]))["uploaded"]["failed"] == []


def test_images_are_converted_and_shrunk_if_the_options_say_so(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    urls = [origin.image("webp-lossy-vp8.webp"), origin.image("tiff-rgb-big-endian.tif")]
    largest = (IMAGES / "tiff-rgb-big-endian.tif").stat().st_size - 1
    options = s3.options(convert=True, shrink=True, imgur_max_bytes=largest)
    with running_service(tmp_path / "temp", **options) as service:
        job_id = service.submit(urls)
        service.finish(job_id)
        records = service.records(job_id)
    assert [records[url]["converted_from"] for url in urls] == ["image/webp", "image/tiff"]


def test_a_large_image_that_is_there_is_not_sent_again(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    url = origin.page("/large.png", answer(large_png()))
    with running_service(tmp_path / "temp", **s3.options()) as service:
        for _ in range(2):
            assert service.finish(service.submit([url], dedupe=False))["uploaded"]["completed"]
    assert len(s3.sent("PUT")) == 1
    assert len(s3.sent("HEAD")) == 2


def test_texts_become_metadata_of_an_object_of_their_own(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    png = (IMAGES / "png-rgb.png").read_bytes()
    urls = [origin.page(f"/{number}.png", answer(png)) for number in range(3)]
    texts = [("Plain", "Two\r\nx-amz-acl: public-read-write"), ("Straße =?" * 100, "日本語" * 500)]
    items = [
        {"url": url, "title": title, "description": text}
        for url, (title, text) in zip(urls, texts, strict=False)
    ]
    with running_service(tmp_path / "temp", **s3.options()) as service:
        answered = service.post(json={"urls": [*items, urls[2]]})
        assert not service.finish(answered.json()["jobId"][0])["uploaded"]["failed"]
    assert len(s3.objects()) == 3
    puts = {each.headers.get("x-amz-meta-title"): each.headers for each in s3.sent("PUT")}
    assert puts["Plain"]["x-amz-meta-description"] == "Two x-amz-acl: public-read-write"
    assert "x-amz-acl" not in puts["Plain"]
    (encoded,) = [title for title in puts if title not in ("Plain", None)]
    assert encoded is not None
    title = str(email.header.make_header(email.header.decode_header(encoded)))
    assert len(title) > 50
    assert ("Straße =?" * 100).startswith(title)
    described = puts[encoded]["x-amz-meta-description"]
    read = str(email.header.make_header(email.header.decode_header(described)))
    assert len(read) > 50
    assert ("日本語" * 500).startswith(read)
    assert len(encoded) + len(described) < 2_000


def test_an_image_that_two_jobs_have_is_deleted_with_the_second(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    url = origin.image("png-rgb.png")
    with running_service(tmp_path / "temp", **s3.options()) as service:
        first, second = (service.submit([url], dedupe=False) for _ in range(2))
        (link,) = service.finish(second)["uploaded"]["completed"]
        assert service.finish(first)["uploaded"]["completed"] == [link]
        assert purge(service, first)["uploaded"]["failed"] == [url]
        assert requests.get(link, timeout=PATIENCE).status_code == 200
        purge(service, second)
        assert s3.objects() == {}


def test_an_image_that_lands_during_its_deletion_is_there_afterwards(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    url = origin.image("png-rgb.png")
    let_go, at_delete = threading.Event(), threading.Event()

    def fault(received: Received) -> Answer | None:
        if received.method == "DELETE":
            at_delete.set()
            assert let_go.wait(PATIENCE)
        return None

    s3.fault = fault
    with running_service(tmp_path / "temp", **s3.options()) as service:
        first = service.submit([url])
        service.finish(first)
        delete = f"{service.url}/v1/images/upload/{first}?purge=true"
        service.session.delete(delete, timeout=PATIENCE)
        assert at_delete.wait(PATIENCE)
        second = service.submit([url])
        wait_until(lambda: service.service.target.pool.busy)
        let_go.set()
        service.finish(first)
        (link,) = service.finish(second)["uploaded"]["completed"]
        assert requests.get(link, timeout=PATIENCE).status_code == 200


def test_a_deletion_waits_for_an_upload_of_its_image_and_leaves_it(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    url = origin.image("png-rgb.png")
    let_go, at_put = threading.Event(), threading.Event()

    def fault(received: Received) -> Answer | None:
        if received.method == "PUT" and len(s3.sent("PUT")) == 2:
            at_put.set()
            assert let_go.wait(PATIENCE)
        return None

    s3.fault = fault
    with running_service(tmp_path / "temp", **s3.options()) as service:
        first = service.submit([url], dedupe=False)
        service.finish(first)
        second = service.submit([url], dedupe=False)
        assert at_put.wait(PATIENCE)
        delete = f"{service.url}/v1/images/upload/{first}?purge=true"
        service.session.delete(delete, timeout=PATIENCE)
        assert not service.status(first)["finished"]
        let_go.set()
        service.finish(first)
        (link,) = service.finish(second)["uploaded"]["completed"]
        assert requests.get(link, timeout=PATIENCE).status_code == 200
    assert s3.sent("DELETE") == []


def test_keys_that_may_not_delete_fail_the_purge_and_no_upload(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    s3.fault = lambda each: xml(403, "AccessDenied") if each.method == "DELETE" else None
    url = origin.image("png-rgb.png")
    with running_service(tmp_path / "temp", **s3.options()) as service:
        job_id = service.submit([url])
        (link,) = service.finish(job_id)["uploaded"]["completed"]
        assert purge(service, job_id)["uploaded"]["completed"] == [link]
        assert service.records(job_id)[url]["error"]["code"] == "access_denied"
        assert service.get("/readyz").status_code == 200


def test_a_bucket_has_no_albums(s3: S3Server, tmp_path: Path) -> None:
    with running_service(tmp_path / "temp", **s3.options()) as service:
        asked = {"urls": ["http://a.example/1.png"], "album": "My trip"}
        assert_problem(service.post(json=asked), 422, "no-albums")
        path = f"{service.url}/v1/documents?album=My+trip"
        assert_problem(service.session.post(path, data=asked["urls"][0]), 422, "no-albums")


def test_the_quota_names_the_bucket_and_no_budgets(s3: S3Server, tmp_path: Path) -> None:
    with running_service(tmp_path / "temp", **s3.options()) as service:
        quota = service.get("/v1/quota").json()
    assert quota["target"] == s3.target
    assert quota["budgets"] == []


def test_a_bucket_that_is_not_public_is_said_and_uploads_go_on(
    origin: Origin, s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3.is_public = False
    with running_service(tmp_path / "temp", **s3.options()) as service:
        service.finish(service.submit([origin.image("png-rgb.png")]))
        wait_until(lambda: service.get("/readyz").json()["target"])
        ready = service.get("/readyz")
        assert ready.status_code == 200
        assert "--s3-public-url" in ready.json()["target"]
    assert "Make the bucket public" in caplog.text


REFUSED_AT_THE_START = [
    (xml(403, "InvalidAccessKeyId"), "AWS_ACCESS_KEY_ID"),
    (xml(403, "RequestTimeTooSkewed"), "clock"),
    (xml(404, "NoSuchBucket"), "--target"),
    (xml(400, "AuthorizationHeaderMalformed", Region="eu-west-3"), "--s3-region=eu-west-3"),
]


@pytest.mark.parametrize(("refusal", "advice"), REFUSED_AT_THE_START)
def test_readyz_proves_the_bucket_at_the_start(
    s3: S3Server, tmp_path: Path, refusal: Answer, advice: str
) -> None:
    s3.fault = lambda _: refusal
    options = s3.options(bucket_wait_seconds=0.02)
    with running_service(tmp_path / "temp", **options) as service:
        wait_until(lambda: service.get("/readyz").status_code == 503)
        ready = service.get("/readyz").json()
        assert (ready["status"], ready["waiting_for"]) == ("not ready", "credentials")
        assert advice in ready["reason"]
        s3.fault = lambda _: None
        wait_until(lambda: service.get("/readyz").status_code == 200)
    assert s3.objects() == {}


def test_no_secret_is_in_a_log_a_response_a_metric_or_the_list_of_processes(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    token = "t0k3n/t0k3n"
    said = f"{KEY_ID} and {SECRET} and {token}"
    s3.fault = lambda each: xml(400, "Odd", said) if each.method == "PUT" else None
    service = ServiceProcess(
        "--port=0",
        "--log-level=DEBUG",
        "--allow-origin=127.0.0.1",
        f"--temp-dir={tmp_path}",
        *s3.flags(),
        environment={**s3.environment, "AWS_SESSION_TOKEN": token},
        command=MAIN,
    )
    try:
        job_id = service.submit([origin.image("png-rgb.png")])
        service.finish(job_id)
        paths = [f"/v1/images/upload/{job_id}/images", "/metrics", "/readyz", "/v1/quota", "/"]
        texts = [service.get(path).text for path in paths]
        texts.append(Path(f"/proc/{service.process.pid}/cmdline").read_text(encoding="utf-8"))
    finally:
        service.stop()
    assert "Odd: ... and ... and ..." in texts[0]
    for secret in (KEY_ID, SECRET, token):
        assert not [text for text in [*texts, *service.log] if secret in text]
    assert s3.sent("PUT")[0].headers["x-amz-security-token"] == token


def test_nodes_upload_to_a_bucket_without_a_lease(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    options = s3.options(store=fresh_database(), lease_seconds=3_600.0)
    with (
        running_service(tmp_path / "one", **options) as one,
        running_service(tmp_path / "two", **options) as two,
    ):
        for node in (one, two):
            assert [quota.is_leased for quota in node.service.target.quotas.each] == [True]
            assert node.get("/readyz").json()["waiting_for"] is None
        job_id = one.submit([origin.image("png-rgb.png")])
        (link,) = two.finish(job_id)["uploaded"]["completed"]
        assert purge(two, job_id)["uploaded"]["completed"] == []
        assert requests.get(link, timeout=PATIENCE).status_code == 404


MISUSE = [
    (["--target=ftp://a"], False, "--target must be imgur or s3://"),
    (["--target=s3://a-bucket"], False, "AWS_ACCESS_KEY_ID"),
    (["--s3-endpoint=http://a.example"], False, "need --target=s3://"),
    (["--target=s3://A"], True, "small letters"),
    (["--target=s3://bucket/../x"], True, "no part of it begins with a dot"),
    (["--target=s3://bucket", "--s3-endpoint=a.example"], True, "--s3-endpoint is"),
    (["--target=s3://bucket", "--s3-endpoint=http://a/b"], True, "without bucket and path"),
    (["--target=s3://bucket", "--s3-public-url=x"], True, "--s3-public-url is"),
    (["--target=s3://bucket", "--s3-region="], True, "--s3-region is"),
]


@pytest.mark.parametrize(("arguments", "has_keys", "sentence"), MISUSE)
def test_options_of_a_bucket_that_are_wrong_end_the_start_with_status_2(
    arguments: list[str], has_keys: bool, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    with pytest.raises(SystemExit) as caught:
        parse(arguments, keys if has_keys else {})
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_kill_a_restart_and_an_undo_leave_each_image_once_and_then_none(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    counts = killed_once(tmp_path, s3, pictures(origin, 36))
    assert counts.is_right(), counts
