"""Random responses of Imgur, sent to the real ImgurAPI over a socket.

Each request must end with a result or an ImageError that has a code of the API. The responses have
any status, headers and body: cut, compressed wrongly, not UTF-8, deep, huge, or nearly right.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from imageload.errors import ImageError
from imageload.image import Landed
from imageload.targets.imgur.answers import MEANINGS
from imageload.transport.curl import Transport
from imgurapi import ImgurAPI
from tests.imgur_server import imgur_server
from tests.origin import IMAGES

PNG = str(IMAGES / "png-rgb.png")

_STATUSES = (
    *[200] * 12,
    200,
    201,
    204,
    301,
    302,
    400,
    401,
    403,
    404,
    408,
    413,
    415,
    417,
    429,
    500,
    502,
    503,
    504,
)
_TYPES = ("application/json", "text/html", "text/html; charset=utf-8", "image/png", "x" * 300, "")
_KEYS = (
    "data", "errors", "error", "status", "success", "code", "message", "detail", "link", "id",
    "deletehash", "name", "access_token", "refresh_token", "UserLimit", "UserRemaining",
    "UserReset", "ClientLimit", "ClientReset",
)  # fmt: skip
_HEADERS = (
    "X-RateLimit-UserLimit", "X-RateLimit-UserRemaining", "X-RateLimit-UserReset",
    "X-RateLimit-ClientRemaining", "X-RateLimit-ClientReset", "X-Post-Rate-Limit-Remaining",
    "X-Post-Rate-Limit-Reset", "Retry-After", "Date", "Location", "Set-Cookie", "ETag",
)  # fmt: skip
_TEXTS = (
    "", "<" * 5_000, "<b>x</b>\r\n\x00", "\ud800", "٣٣٣", "9" * 5_000, "a\r\nX: y", "../..",
    "é" * 99,
    "Please wait 99 more minutes.", "too fast", "Daily client requests exceeded", "1e400",
    "Sun, 31 Dec 9999 23:59:60 +9999", "Mon, 01 Jan 0001 00:00:00 -2359", "NaN", "-1", "0", "3600",
)  # fmt: skip


class Fuzz:
    """Makes responses from a seed. `url` is that of the server that sends them."""

    def __init__(self, seed: int, url: str) -> None:
        self._random = random.Random(seed)
        self._url = url
        self._words = [word for meaning in MEANINGS for word in meaning.words]

    def response(self) -> bytes:
        """The bytes of a response, which may be none at all."""
        draw = self._random
        if draw.random() < 0.05:
            return draw.randbytes(draw.randrange(200))
        status: object = draw.choice(_STATUSES)
        if draw.random() < 0.1:
            status = draw.choice(
                [0, 99, 600, 999, 10**9, "abc", "", "2 0 0", draw.randrange(1_000)]
            )
        body = self._body()
        lines = [f"HTTP/1.1 {status} x", f"Content-Type: {draw.choice(_TYPES)}"]
        length = draw.choice([len(body)] * 8 + [len(body) // 2, len(body) + 9, -1, 10**20])
        lines.append(draw.choice([f"Content-Length: {length}"] * 8 + ["Connection: close"]))
        if draw.random() < 0.1:
            lines.append("Transfer-Encoding: chunked")
        if draw.random() < 0.1:
            lines.append(f"Content-Encoding: {draw.choice(['gzip', 'br', 'deflate', 'x'])}")
            body = draw.choice([body, gzip.compress(body)])
        for _ in range(draw.randrange(4)):
            lines.append(f"{draw.choice(_HEADERS)}: {self._text()}".replace("\r\n", " "))
        sent = "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body
        return sent[: draw.randrange(len(sent))] if draw.random() < 0.1 else sent

    def _body(self) -> bytes:
        draw = self._random
        kind = draw.random()
        if kind < 0.1:
            return draw.randbytes(draw.randrange(1_000))
        if kind < 0.15:
            depth = draw.choice([10, 1_000, 100_000])
            return draw.choice([b"[", b'{"data":']) * depth
        if kind < 0.2:
            return b"<html><body>" + self._text().encode("utf-8", "replace") + b"</body></html>"
        value = self._right() if kind < 0.4 else self._value(0)
        body = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "replace")
        kind = draw.random()
        if kind < 0.1:
            return body[: draw.randrange(len(body) + 1)]
        return body.replace(b"e", b"\xff") if kind < 0.15 else body

    def _right(self) -> dict[str, Any]:
        """A response that is nearly right."""
        image: dict[str, Any] = {"id": "aB3", "deletehash": "x1", "link": f"{self._url}/aB3.png"}
        image |= {"UserLimit": 500, "UserReset": self._random.choice([9, -9, 2**70, 10**4_000])}
        if self._random.random() < 0.5:
            image[self._random.choice([*image])] = self._value(2)
        return {"data": image, "success": True, "status": 200, "access_token": "a"}

    def _value(self, depth: int) -> Any:
        draw = self._random
        kind = draw.randrange(10 if depth < 4 else 6)
        if kind < 2:
            return draw.choice([None, True, False, 0, -1, 429, 403, 1003, 2**70, 10**4_000])
        if kind < 3:
            return draw.choice([1.5, float("nan"), float("inf"), -0.0, 1e308])
        if kind < 6:
            return self._text()
        if kind < 7:
            return [self._value(depth + 1) for _ in range(draw.randrange(4))]
        keys = [draw.choice(_KEYS) for _ in range(draw.randrange(1, 6))]
        return {key: self._value(depth + 1) for key in keys}

    def _text(self) -> str:
        draw = self._random
        if draw.random() < 0.3:
            return f"Sorry, {draw.choice(self._words)}"
        return draw.choice([*_TEXTS, str(draw.randrange(10**12)), f"{self._url}/aB3.png"])


def _requests(api: ImgurAPI) -> list[Callable[[], Any]]:
    """The requests that the service sends."""
    return [
        lambda: api.land(PNG, {"title": "x"}, content="x"),
        lambda: api.land(PNG, anonymous=False),
        lambda: api.request("POST", "album", {"deletehashes": ["a"]}, anonymous=True),
        lambda: api.request("DELETE", "image/secret", anonymous=True),
        lambda: api.find("name"),
        lambda: api.ask_credits(),
    ]


def wrong_ends(transport: Transport, cases: int, seed: int) -> tuple[list[str], Counter[str]]:
    """What is wrong with the ends of so many requests, and how often each end was met."""
    wrong: list[str] = []
    ends: Counter[str] = Counter()
    sent = b""

    def respond(_: object) -> bytes:
        nonlocal sent
        sent = fuzz.response()
        return sent

    with imgur_server(respond) as server:
        fuzz = Fuzz(seed, server.url)
        draw = random.Random(seed)
        for _ in range(cases):
            api = ImgurAPI(
                "test",
                "secret",
                "refresh",
                transport=transport,
                base_url=server.url,
                link_base=server.url,
                seconds=5.0,
            )
            if draw.random() < 0.5:
                api.auth.current_access_token = "access"
            try:
                result = transport.transfers.run(draw.choice(_requests(api))())
                ends[type(result).__name__] += 1
                if isinstance(result, Landed):
                    msgspec.msgpack.encode(result)
            except ImageError as error:
                ends[error.name] += 1
                with contextlib.suppress(UnicodeEncodeError):
                    msgspec.json.encode(error.failure())
                    if error.code != "internal_error" and "\n" not in error.message:
                        continue
                wrong.append(f"{error!r} after {sent[:2_000]!r}")
            except Exception as error:
                wrong.append(f"{error!r} after {sent[:2_000]!r}")
    return wrong, ends
