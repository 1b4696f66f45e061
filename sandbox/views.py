"""The JSON of an image, with the keys of captured responses of Imgur."""

from __future__ import annotations

from .picture import EXTENSIONS
from .store import StoredImage
from .tokens import ACCOUNT_NAME


def link(image: StoredImage, base: str) -> str:
    """The image's URL on the image host."""
    return f"{base}/{image.id}.{EXTENSIONS[image.type]}"


def uploaded_view(image: StoredImage, base: str, *, old: bool) -> dict[str, object]:
    """The `data` of an upload, as captured from 2021 to 2024, or before if `old`."""
    if old:
        seen = _old_view(image, base)
        return {**seen, "deletehash": image.deletehash, "name": image.name, "link": seen["link"]}
    return {
        "id": image.id,
        "deletehash": image.deletehash,
        "account_id": image.account,
        "account_url": ACCOUNT_NAME if image.account else None,
        "ad_type": None,
        "ad_url": None,
        "title": image.title,
        "description": image.description,
        "name": image.name,
        "type": image.type,
        "width": image.width,
        "height": image.height,
        "size": image.size,
        "views": 0,
        "section": None,
        "vote": None,
        "bandwidth": 0,
        "animated": image.animated,
        "favorite": image.favorite,
        "in_gallery": False,
        "in_most_viral": False,
        "has_sound": False,
        "is_ad": False,
        "nsfw": None,
        "link": link(image, base),
        "tags": [],
        "datetime": image.datetime,
        "mp4": "",
        "hls": "",
    }


def image_view(image: StoredImage, base: str, *, owner: bool) -> dict[str, object]:
    """The `data` of GET /3/image/{id}: deletehash and name for the owner only."""
    ads: dict[str, object] = {
        "safeFlags": [],
        "highRiskFlags": [],
        "unsafeFlags": [],
        "wallUnsafeFlags": [],
    }
    shown = _old_view(image, base)
    shown["nsfw"] = False
    if owner:
        shown |= {"deletehash": image.deletehash, "name": image.name}
    return {**shown, "ad_config": {**ads, "showsAds": False, "showAdLevel": 0}}


def _old_view(image: StoredImage, base: str) -> dict[str, object]:
    return {
        "id": image.id,
        "title": image.title,
        "description": image.description,
        "datetime": image.datetime,
        "type": image.type,
        "animated": image.animated,
        "width": image.width,
        "height": image.height,
        "size": image.size,
        "views": 0,
        "bandwidth": 0,
        "vote": None,
        "favorite": image.favorite,
        "nsfw": None,
        "section": None,
        "account_url": ACCOUNT_NAME if image.account else None,
        "account_id": image.account or 0,
        "is_ad": False,
        "in_most_viral": False,
        "has_sound": False,
        "tags": [],
        "ad_type": 0,
        "ad_url": "",
        "edited": "0",
        "in_gallery": False,
        "link": link(image, base),
    }
