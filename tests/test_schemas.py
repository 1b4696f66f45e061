"""Tests of schemas: the map from URLs to links as JSON and as CSV (RFC 4180)."""

from __future__ import annotations

import csv
import io

from imageload import errors
from imageload.image import Downloaded, Failed, Report, Uploaded
from imageload.job import Job
from imageload.job_json import map_csv, map_json

REPORT = Report("", 200, 1, "image/png", 1, 1, "5ha")


def landed(*pairs: tuple[str, str | None]) -> Job:
    """A job whose URLs have these links; None is a failed image."""
    job = Job([url for url, _ in pairs])
    for index, (_, link) in enumerate(pairs):
        job.apply(Downloaded(index, REPORT))
        if link is None:
            job.apply(Failed(index, errors.UploadError("upload_rejected", "No.").failure()))
        else:
            job.apply(Uploaded(index, link))
    return job


def test_the_map_has_completed_images_in_the_order_of_the_request() -> None:
    job = landed(("http://b/", "https://l/1"), ("http://x/", None), ("http://a/", "https://l/2"))
    assert list(map_json(job.snapshot())["map"].items()) == [
        ("http://b/", "https://l/1"),
        ("http://a/", "https://l/2"),
    ]


def test_the_csv_follows_the_rfc() -> None:
    job = landed(("http://b/", "https://l/1"), ("http://a/", "https://l/2"))
    expected = "url,link\r\nhttp://b/,https://l/1\r\nhttp://a/,https://l/2\r\n"
    assert map_csv(job.snapshot()) == expected


def test_the_csv_of_nothing_is_its_header() -> None:
    assert map_csv(Job(["http://a/"]).snapshot()) == "url,link\r\n"


def test_any_url_survives_the_csv() -> None:
    urls = ['http://a/?x=1,2&y="z"', "http://a/é,ü", "http://a/\r\nb", "http://a/';--", '"', " ,"]
    job = landed(*[(url, f"https://l/{number}") for number, url in enumerate(urls)])
    rows = list(csv.reader(io.StringIO(map_csv(job.snapshot()), newline="")))
    assert rows == [["url", "link"], *[[url, f"https://l/{n}"] for n, url in enumerate(urls)]]
