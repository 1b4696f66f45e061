"""A transfer loop for the tests that need no service, with a Transport on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds
from tests.waiting import PATIENCE


@contextlib.contextmanager
def running_transport() -> Iterator[Transport]:
    """A Transport without a guard, on a loop that ends with the block."""
    transfers = TransferLoop()
    transport = Transport(transfers, Bounds(connect_seconds=PATIENCE), user_agent="tests")
    transfers.start()
    try:
        yield transport
    finally:
        transfers.submit(_closed(transport)).result(PATIENCE)
        assert transfers.close(PATIENCE)


async def _closed(transport: Transport) -> None:
    transport.close()
