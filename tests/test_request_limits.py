"""Tests of web.limits: threads for work off the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from imageload.errors import Refused
from imageload.settings import Settings
from imageload.store.memory import MemoryStore
from imageload.web.access import Access
from imageload.web.idempotency import IdempotencyKeys
from imageload.web.limits import Pool, RequestLimits
from tests.service import running_service
from tests.waiting import PATIENCE


def make_limits() -> RequestLimits:
    """RequestLimits for the running event loop."""
    return RequestLimits(Access(Settings(), []), IdempotencyKeys(MemoryStore()), 10)


def test_work_runs_in_another_thread_and_its_error_is_raised_to_the_request() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async def run() -> None:
        limits = make_limits()
        assert await limits.run_in_thread(threading.get_ident, "bodies") != threading.get_ident()
        with pytest.raises(RuntimeError, match="a bug"):
            await limits.run_in_thread(fail, "bodies")
        limits.close()

    asyncio.run(run())


def test_many_requests_wait_for_the_disk_at_once() -> None:
    async def run() -> None:
        limits, meet = make_limits(), threading.Barrier(8)
        await asyncio.gather(
            *(limits.run_in_thread(lambda: meet.wait(PATIENCE), "journal") for _ in range(8))
        )
        limits.close()
        with pytest.raises(Refused, match="stopping"):
            await limits.run_in_thread(threading.get_ident, "journal")

    asyncio.run(run())


def test_work_that_waits_for_a_thread_when_the_service_stops_is_refused() -> None:
    async def run() -> None:
        limits = make_limits()
        begun, go_on = threading.Semaphore(0), threading.Event()

        def hold() -> str:
            begun.release()
            go_on.wait(PATIENCE)
            return "done"

        held = [asyncio.create_task(limits.run_in_thread(hold, "bodies")) for _ in range(2)]
        for _ in held:
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        waiting = asyncio.create_task(limits.run_in_thread(hold, "bodies"))
        await asyncio.sleep(0)
        limits.close()
        go_on.set()
        assert await asyncio.gather(*held) == ["done", "done"]
        for late in (waiting, limits.run_in_thread(hold, "bodies")):
            with pytest.raises(Refused) as caught:
                await late
            assert caught.value.slug == "shutting-down"

    asyncio.run(run())


@pytest.mark.parametrize("pool", ["bodies", "journal", "views"])
def test_a_pool_that_is_full_stops_no_other_kind_of_request(tmp_path: Path, pool: Pool) -> None:
    store = str(tmp_path / "journal")
    with running_service(tmp_path / "t", store=store) as service:
        large = service.submit([f"ftp://a.example/{number}" for number in range(2_000)])
        small = service.submit(["ftp://a.example/"])
        service.finish(large)
        slow = f"/v1/images/upload/{large}"
        go_on = threading.Event()
        held: list[asyncio.Future[bool]] = []

        async def hold() -> None:
            work = service.app.limits.run_in_thread
            held.extend(
                asyncio.ensure_future(work(lambda: go_on.wait(30), pool)) for _ in range(40)
            )

        service.on_loop(hold)
        try:
            for path in ("/healthz", "/readyz", "/metrics", "/v1/quota", "/v1/images/upload"):
                assert service.get(path).status_code == 200
            for path in ("/", "/page/page.js", "/openapi.json", f"/v1/images/upload/{small}"):
                assert service.get(path).status_code == 200
            delete = service.session.delete(f"{service.url}{slow}", timeout=30)
            assert delete.status_code == 202
            if pool != "views":
                assert service.get(slow).status_code == 200
            if pool != "bodies":
                entries = [f"ftp://a.example/{'x' * 90}{number}" for number in range(500)]
                assert service.post(json=entries).status_code == 202
            if pool != "journal":
                assert service.post(json=["ftp://a.example/"]).status_code == 202
            service.service.run_maintenance()
        finally:
            go_on.set()
        assert service.get(slow).status_code == 200
        assert service.get("/v1/images").status_code == 200
