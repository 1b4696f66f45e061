"""Tests of store.writer: when its transactions are written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imageload.store import writer
from imageload.store.writer import Writer
from imageload.transport.loop import is_urgent
from tests.waiting import PATIENCE


class Rows(list[int]):
    """The rows of one transaction."""

    def drop_new(self) -> None:
        """There are none."""


class Ledger:
    """A database in memory, with the time of each transaction."""

    name = "ledger"
    errors: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        self.written: list[float] = []

    def new_batch(self) -> Rows:
        return Rows()

    def write(self, batch: Rows) -> None:  # noqa: ARG002
        self.written.append(time.monotonic())


@contextmanager
def opened(ledger: Ledger) -> Iterator[Writer[Rows]]:
    """A Writer that has written one transaction, so that it pauses now."""
    opened = Writer(ledger, None, None)
    try:
        opened.add(lambda rows: rows.append(0)).result(PATIENCE)
        yield opened
    finally:
        assert opened.close(PATIENCE) == 0


async def recorded(opened: Writer[Rows], *, urgent: bool) -> None:
    is_urgent.set(urgent)
    opened.put(lambda rows: rows.append(1))
    await opened.durable()


def test_an_image_of_a_small_job_waits_for_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_PACE_SECONDS", 10 * PATIENCE)
    with opened(Ledger()) as journal:
        asyncio.run(asyncio.wait_for(recorded(journal, urgent=True), PATIENCE))


def test_new_jobs_wait_for_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_PACE_SECONDS", 10 * PATIENCE)
    with opened(Ledger()) as journal:
        journal.add(lambda rows: rows.append(1)).result(PATIENCE)


@pytest.mark.parametrize("urgent", [True, False])
def test_every_second_pause_is_whole_and_those_of_large_jobs_are(
    monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    monkeypatch.setattr(writer, "_PACE_SECONDS", 0.05)
    ledger = Ledger()
    with opened(ledger) as journal:
        for _ in range(2):
            asyncio.run(recorded(journal, urgent=urgent))
    first, second, third = ledger.written
    assert third - second >= 0.05
    assert urgent or second - first >= 0.05
