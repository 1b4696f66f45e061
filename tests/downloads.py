"""A Downloader for one test, with small bounds but for time, and an empty temp directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import certifi

from imageload import errors
from imageload.fetch.download import DownloadBounds, Downloader, Hop
from imageload.fetch.guard import Guard, check_url
from imageload.fetch.tempfiles import TempFiles
from imageload.image import Report
from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds
from tests.folders import filled
from tests.raising import raises_error
from tests.waiting import PATIENCE


class Download:
    """A Downloader, its temp directory, and the transport under it."""

    def __init__(
        self,
        temp_dir: Path,
        *,
        allow: Sequence[str] = ("127.0.0.1",),
        resolve: Sequence[str] = (),
        ca_file: str = "",
        seconds: float = PATIENCE,
        connect_seconds: float = PATIENCE,
        low_speed_seconds: float = 10 * PATIENCE,
        downgrade: bool = False,
        deny: Sequence[str] = (),
        ports: Sequence[int] = (80, 443),
        proxy: str = "",
        max_bytes: int = 100_000,
    ) -> None:
        self.temp_dir = temp_dir
        self._files = TempFiles(temp_dir)
        bounds = Bounds(
            connect_seconds=connect_seconds,
            low_speed_bytes=1,
            low_speed_seconds=low_speed_seconds,
            max_header_bytes=65_536,
            ca_file=ca_file or certifi.where(),
        )
        guard = Guard(allow, deny, ports)
        self.transfers = TransferLoop()
        self.transfers.start()
        self.transport = Transport(
            self.transfers,
            bounds,
            user_agent="tests",
            refusal=None if proxy else guard.refusal,
            resolve=resolve,
            proxy=proxy,
        )
        self._bounds = DownloadBounds(
            seconds=seconds,
            max_bytes=max_bytes,
            max_pixels=1_000_000,
            max_redirects=5,
            downgrade=downgrade,
        )
        self.downloader = Downloader(self.transport, self._bounds, self._files)

    def be_patient(self) -> None:
        """Let the next downloads take their time, over the same connections."""
        bounds = replace(self._bounds, seconds=PATIENCE)
        self.downloader = Downloader(self.transport, bounds, self._files)

    def call(self, url: str) -> Report:
        """Download `url`; the caller owns the temp file of the Report."""
        found: Report | Hop = Hop(check_url(url))
        while isinstance(found, Hop):
            found = self.transfers.run(self.downloader.fetch(found))
        return found

    def close(self) -> None:
        """End the loop; no request is in flight."""
        self.transfers.run(self._close_transport())
        assert self.transfers.close()

    async def _close_transport(self) -> None:
        self.transport.close()

    def arrives(self, url: str) -> bytes:
        """Download `url`, delete its temp file and return the bytes."""
        report = self.call(url)
        content = Path(report.temp_fn).read_bytes()
        self.give_back(report)
        return content

    def give_back(self, report: Report) -> None:
        """Release the temp file of `report`."""
        self._files.give_back(report.temp_fn, report.bytes)

    def fails_with(self, url: str, name: str) -> errors.ImageError:
        """Return the error of this name that `url` fails with; check that no file is left."""
        with raises_error(name) as caught:
            self.call(url)
        assert caught.value.message.endswith(".")
        assert not filled(self.temp_dir)
        return caught.value


MakeDownload = Callable[..., Download]
