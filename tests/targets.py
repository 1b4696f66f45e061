"""Imgur's sandbox and a bucket, with what tests of both targets need."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from imageload.errors import ImageError
from imageload.image import Landed
from imageload.retry import RetryRule
from imageload.targets import Target, Upload
from imageload.targets.imgur.uploader import Imgur
from imageload.targets.limits.breaker import Terms
from imageload.targets.limits.quota import Quotas
from imageload.targets.s3.bucket import Bucket, Keys
from imageload.targets.s3.location import Location
from imageload.targets.s3.target import S3
from imageload.targets.uploads import Uploads
from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds
from imgurapi import ImgurAPI
from sandbox.testing import RunningSandbox
from tests.origin import IMAGES
from tests.s3_server import KEY_ID, SECRET, Answer, Received, Reset, S3Server, xml
from tests.transfers import running_transport
from tests.waiting import PATIENCE

T = TypeVar("T")
PICTURE = IMAGES / "png-rgb.png"
_TERMS = Terms(unhinted_wait=0.05, longest_wait=0.1)
_RETRY = RetryRule(max_tries=3, seconds=0.01, cap_seconds=0.05).wait


def upload(path: Path = PICTURE, **options: Any) -> Upload:
    """An upload of this file, a PNG."""
    image = path.read_bytes()
    values = {
        "name": "image",
        "since": time.monotonic(),
        "content": hashlib.sha256(image).hexdigest(),
        "type": "image/png",
        "bytes": len(image),
    }
    return Upload(path=str(path), **{**values, **options})


class Place(Protocol):
    """A target and the server behind it. Faults hit the next uploads, one each."""

    target: Target

    def stored(self) -> int:
        """How many images it has."""

    def throttle(self) -> None:
        """Say once that there are too many requests."""

    def refuse(self) -> None:
        """Refuse the credentials, once an upload and once when it is asked for them."""

    def reset(self) -> None:
        """Take the image, and reset the connection."""

    def hang(self) -> None:
        """Never answer, where uploads have `seconds`."""

    def is_hanging(self) -> bool:
        """An upload has been received that is not answered."""

    def fail(self) -> None:
        """Answer that it is unavailable."""

    def lie(self, which: str) -> None:
        """Answer 200 to an upload that failed."""


class ImgurPlace:
    """The sandbox."""

    lies = ("null", "a page", "no link")

    def __init__(self, sandbox: RunningSandbox, transport: Transport, seconds: float) -> None:
        self._sandbox = sandbox
        quotas, url = Quotas(1, _TERMS), sandbox.url
        api = ImgurAPI(
            "test",
            transport=transport,
            base_url=url,
            link_base=url,
            quota=quotas.each[0],
            seconds=seconds,
        )
        self.target: Target = Imgur([api], Uploads(quotas, 4, retry=_RETRY), link_base=url)

    def stored(self) -> int:
        return len(self._sandbox.images())

    def throttle(self) -> None:
        self._sandbox.fault("429")

    def refuse(self) -> None:
        self._sandbox.fault("answer", status=401)
        self._sandbox.fault("answer", status=401, match="credits")

    def reset(self) -> None:
        self._sandbox.fault("reset_after_body")

    def hang(self) -> None:
        self._sandbox.fault("hang")

    def is_hanging(self) -> bool:
        return bool(self._sandbox.stats()["requests"].get("upload"))

    def fail(self) -> None:
        self._sandbox.fault("503")

    def lie(self, which: str) -> None:
        body = {"null": "null", "a page": "<html>", "no link": '{"data": {}, "success": true}'}
        self._sandbox.fault("answer", status=200, body=body[which])


class S3Place:
    """A bucket."""

    lies = ("an error", "a page", "no ETag", "another ETag")

    def __init__(
        self, server: S3Server, transports: Callable[..., Transport], seconds: float
    ) -> None:
        self._server = server
        location = Location.of(
            server.target, region="us-east-1", endpoint=server.url, public_url=""
        )
        keys = Keys(key_id=KEY_ID, secret=SECRET)
        signed = transports(signing=keys.signing("us-east-1"))
        bucket = Bucket(location, keys, signed, transports(), seconds)
        self.target: Target = S3(bucket, Uploads(Quotas(1, _TERMS), 4, retry=_RETRY))
        self._faults: list[tuple[str, Callable[[Received], Answer | None]]] = []
        self._hangs = threading.Event()
        server.fault = self._fault

    def _fault(self, received: Received) -> Answer | None:
        for n, (method, fault) in enumerate(self._faults):
            if method == received.method:
                del self._faults[n]
                return fault(received)
        return None

    def stored(self) -> int:
        return len(self._server.objects())

    def answer(self, answer: Answer, method: str = "PUT") -> None:
        """Answer so once, and do nothing."""
        self._faults.append((method, lambda _: answer))

    def throttle(self) -> None:
        self.answer(xml(503, "SlowDown"))

    def refuse(self) -> None:
        self.answer(xml(403, "InvalidAccessKeyId"))
        self.answer(xml(403, "InvalidAccessKeyId"), "GET")

    def reset(self) -> None:
        def after(received: Received) -> Answer | None:
            if received.method == "PUT":
                self._server.after = lambda _: None
                raise Reset
            return None

        self._server.after = after

    def hang(self) -> None:
        def fault(_: Received) -> Answer:
            self._hangs.set()
            self._server.closed.wait()
            raise Reset

        self._faults.append(("PUT", fault))

    def is_hanging(self) -> bool:
        return self._hangs.is_set()

    def fail(self) -> None:
        self.answer(xml(503, "ServiceUnavailable"))

    def lie(self, which: str) -> None:
        etag = {"ETag": '"00000000000000000000000000000000"'}
        lies = {
            "an error": xml(200, "InternalError")._replace(headers=etag),
            "a page": Answer(200, b"<html>Sign in"),
            "no ETag": Answer(200),
            "another ETag": Answer(200, headers=etag),
        }
        self.answer(lies[which])


class Running:
    """A Place and its loop."""

    def __init__(self, place: Any, transfers: TransferLoop) -> None:
        self.place = place
        self.target: Target = place.target
        self._transfers = transfers

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine` on the transfer loop."""

        async def within() -> T:
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        return self._transfers.run(within())

    def land(self, path: Path = PICTURE, **options: Any) -> Landed:
        """Upload a file."""
        return self.run(self.target.land("job", upload(path, **options)))

    def error(self) -> ImageError:
        """The error of an upload."""
        try:
            self.land()
        except ImageError as error:
            return error
        raise AssertionError("it landed")


@contextlib.contextmanager
def running_imgur(sandbox: RunningSandbox, seconds: float = PATIENCE) -> Iterator[Running]:
    """The sandbox as a target; `seconds`: the deadline of a request."""
    with running_transport() as transport:
        yield Running(ImgurPlace(sandbox, transport, seconds), transport.transfers)


@contextlib.contextmanager
def running_bucket(server: S3Server, seconds: float = PATIENCE) -> Iterator[Running]:
    """A bucket as a target."""
    with running_transport() as transport:
        made: list[Transport] = []

        def transports(**options: Any) -> Transport:
            bounds = Bounds(connect_seconds=PATIENCE)
            made.append(Transport(transport.transfers, bounds, user_agent="tests", **options))
            return made[-1]

        async def close() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            for each in made:
                each.close()

        yield Running(S3Place(server, transports, seconds), transport.transfers)
        transport.transfers.run(close())
