"""News: what changed, by number, so that a listener can go on where it was cut off; and the bell.

News says which image changed; what is sent of it is how it is when it is sent. So of two news of
one image the older may be struck out, and nothing is kept but numbers:

    order    4  0  7  4      image 4 failed, 0 and 7 completed, 4 completed in another try
    number   1  2  3  4      1 is overtaken by 4: whoever was not sent it yet is sent 4 alone

A listener's place is the number of the last news it was sent, and the `id:` of its events. What is
sent is encoded once, and the same bytes go to all. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import msgspec

# What a listener that takes nothing costs: a block, of this many bytes or of one event.
BLOCK_BYTES = 64 * 2**10
# A block ends at a number that this divides, so that listeners with different places meet.
BLOCK_NEWS = 128
# Below this many superfluous numbers, striking out is not worth it.
SLACK = 1_024
_CACHE_BYTES = 4 * 2**20
_ENTRY_BYTES = 512

Block = tuple[bytes, int]
"""Events, encoded, and the place of whoever was sent them."""


def encode_event(name: str, value: object, event_id: str = "") -> bytes:
    """One server-sent event; `value` becomes JSON, which has no line breaks."""
    head = f"event: {name}\nid: {event_id}\n" if event_id else f"event: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode("ascii"), msgspec.json.encode(value))


def place_in(event_id: str, token: str, last: int) -> int:
    """The place that `event_id`, `<token>-<number>`, names; 0 where it is none of ours."""
    ours, _, number = event_id.partition("-")
    number = number.partition("-")[0]
    if ours != token or not (number.isascii() and number.isdigit()):
        return 0
    place = int(number[:18])
    return place if place <= last else 0


class Bell:
    """Rings for all who wait at the moment."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[bool]] = set()

    def ring(self) -> int:
        """End every wait; gives how many there were."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(True)
        return len(waiting)

    def wait(self) -> asyncio.Future[bool]:
        """What becomes True when it rings; whoever gives up sets False, and calls `forget`."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        return future

    def forget(self, future: asyncio.Future[bool]) -> None:
        """The wait is over, however it ended."""
        self._waiting.discard(future)


class Blocks:
    """The blocks sent last, up to `_CACHE_BYTES`: what one listener got serves those behind it."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[object, ...], Block] = OrderedDict()
        self._bytes = 0
        self.encoded = 0
        """How many were encoded, as against taken from here."""

    def get(self, key: tuple[object, ...], encode: Callable[[], Block]) -> Block:
        """The block of this key, encoded if it is not here."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
            return block
        self._blocks[key] = block = encode()
        self.encoded += 1
        self._bytes += len(block[0]) + _ENTRY_BYTES
        while self._bytes > _CACHE_BYTES and len(self._blocks) > 1:
            _, (oldest, _) = self._blocks.popitem(last=False)
            self._bytes -= len(oldest) + _ENTRY_BYTES
        return block


class News:
    """Which image of a job had news, in order. At most 16 bytes for each image of the job.

    Past two numbers for each image the overtaken ones are struck out, and what is left moves up to
    end at the same last number. So the number of a piece of news never falls, and who comes back
    with an older place misses nothing; it may be sent again what it had been sent shortly before.
    """

    def __init__(self, images: int, ended: Iterable[int] = ()) -> None:
        """`ended` are the indexes of images that begin with news, each once."""
        self._order = array("I", ended)
        self._newest = array("Q", bytes(8 * images))
        self.struck = 0
        """How many numbers, from 1 on, are not in use any more."""
        self._number()

    @property
    def last(self) -> int:
        """The number of the last news; 0 where there are none."""
        return self.struck + len(self._order)

    def add(self, index: int) -> None:
        """The image at `index` has news."""
        self._order.append(index)
        self._newest[index] = self.last
        if len(self._order) > 2 * len(self._newest) + SLACK:
            self._strike_out()

    def between(self, place: int, last: int) -> Iterator[tuple[int, int]]:
        """(number, index) of the news behind `place`, up to `last`, that are not overtaken."""
        for number in range(max(place, self.struck) + 1, last + 1):
            index = self._order[number - self.struck - 1]
            if self._newest[index] == number:
                yield number, index

    def _strike_out(self) -> None:
        last = self.last
        self._order = array("I", (index for _, index in self.between(0, last)))
        self.struck = last - len(self._order)
        self._number()

    def _number(self) -> None:
        newest = self._newest
        for number, index in enumerate(self._order, self.struck + 1):
            newest[index] = number
