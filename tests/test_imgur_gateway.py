"""Tests of a gateway in front of Imgur that names no limits, such as RapidAPI's."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from tests.imgur_server import ImgurServer, Received, imgur_server, landed, response
from tests.jobs import distinct
from tests.origin import Origin
from tests.service import running_service
from tests.waiting import wait_until

FREE = {"UserLimit": 500, "UserRemaining": 500, "ClientLimit": 12_500, "ClientRemaining": 12_500}


def test_the_limits_of_the_main_client_id_are_those_that_an_operator_names(
    tmp_path: Path, origin: Origin
) -> None:
    numbers = itertools.count()

    def respond(request: Received) -> bytes:
        if request.line == "GET /3/credits":
            return response(json.dumps({"data": FREE, "success": True, "status": 200}).encode())
        return landed(imgur.url, f"image{next(numbers)}")

    def options(client_id: str) -> dict[str, Any]:
        return {
            "imgur_base_url": imgur.url,
            "imgur_link_base": imgur.url,
            "imgur_rapidapi_key": "key",
            "imgur_client_id": client_id,
            "store": str(tmp_path / "journal"),
        }

    def budgets(service: Any) -> dict[str, tuple[int | None, int | None]]:
        told = service.get("/v1/quota").json()["budgets"]
        return {each["budget"]: (each["limit"], each["remaining"]) for each in told}

    imgur: ImgurServer
    with imgur_server(respond) as imgur:
        with running_service(tmp_path / "temp", **options("id=31/900")) as service:
            job_id = service.submit(distinct(origin, 5))
            wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "user")
            wait_until(lambda: imgur.uploads() == 3)
            assert budgets(service)["user"] == (31, 0), "one credit for the question at the start"
            assert budgets(service)["client"] == (900, 869)
        with running_service(tmp_path / "temp", **options("id=500/900")) as service:
            assert len(service.finish(job_id)["uploaded"]["completed"]) == 5
            assert budgets(service)["user"][0] == 500, "not what was saved with the other limits"
