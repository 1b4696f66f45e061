"""One job's part in the sharing of images: which it brings over for others, which others bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from imageload.job import Image
from imageload.sharing import Ended, Follow, Lead, Sharing

By = Literal["url", "bytes"]


@dataclass(frozen=True, slots=True)
class Shared:
    """How an image that another job brought, and ours waited for, has ended."""

    index: int
    by: By
    ended: Ended


class Leads:
    """Belongs to the job's thread; `tell` is called in others'.

    Images are the same by their URL or their bytes, and only with the same title and description.
    """

    def __init__(self, sharing: Sharing, job_id: str, tell: Callable[[Shared], None]) -> None:
        self._sharing = sharing
        self._job_id = job_id
        self._tell = tell
        self._led: dict[By, dict[int, str]] = {"url": {}, "bytes": {}}
        self._followed: dict[By, set[int]] = {"url": set(), "bytes": set()}

    def claim_url(self, index: int, image: Image) -> Lead | Follow | Ended:
        """What to do about the URL of the image at `index`; asked again, a Lead stays one."""
        if index in self._led["url"]:
            return Lead()
        key = _key(image, image.url)
        claim = self._sharing.claim_url(key, self._job_id, self._follower(index, "url"))
        return self._note(index, "url", key, claim)

    def claim_bytes(self, index: int, image: Image, sha256: str) -> Lead | Follow | Ended:
        """The same about the image's bytes."""
        if index in self._led["bytes"]:
            return Lead()
        key = _key(image, sha256)
        claim = self._sharing.claim_bytes(key, self._follower(index, "bytes"))
        return self._note(index, "bytes", key, claim)

    def is_awaited(self, shared: Shared) -> bool:
        """Does the image still wait for this? From now on it does not."""
        if shared.index not in self._followed[shared.by]:
            return False
        self._followed[shared.by].remove(shared.index)
        return True

    def settle(self, index: int, ended: Ended) -> None:
        """Tell those who wait for the image at `index`, if any may, how it has ended."""
        key = self._led["bytes"].pop(index, None)
        if key is not None:
            self._sharing.settle_bytes(key, ended)
        key = self._led["url"].pop(index, None)
        if key is not None:
            self._sharing.settle_url(key, ended)

    @property
    def following(self) -> set[int]:
        """The images that wait for others'."""
        return self._followed["url"] | self._followed["bytes"]

    @property
    def following_bytes(self) -> int:
        """How many of them have a temp file meanwhile."""
        return len(self._followed["bytes"])

    def give_up(self) -> None:
        """Wait for nothing any more."""
        for followed in self._followed.values():
            followed.clear()

    def _follower(self, index: int, by: By) -> Callable[[Ended], None]:
        return lambda ended: self._tell(Shared(index, by, ended))

    def _note(
        self, index: int, by: By, key: str, claim: Lead | Follow | Ended
    ) -> Lead | Follow | Ended:
        if isinstance(claim, Lead):
            self._led[by][index] = key
        elif isinstance(claim, Follow):
            self._followed[by].add(index)
        return claim


def _key(image: Image, same: str) -> str:
    if image.title is None and image.description is None:
        return same
    return f"{same}\n{image.title!r}\n{image.description!r}"
