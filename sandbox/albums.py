"""Albums of anonymous images, named by deletehashes, or of an account's images, named by ids.

Changes address an anonymous album by its deletehash, reads by its id; users often mix these up
(PyImgur#46, node-imgur#32). Without an account their fields are JSON or multipart: since 2025-04
Imgur refuses forms (Apollo-Reborn#61).
"""

from __future__ import annotations

import time
from dataclasses import replace

from .body import FORM, Form
from .call import Api
from .envelope import ApiError
from .store import Album, new_deletehash, new_id
from .tokens import ACCOUNT_NAME
from .views import image_view


class AlbumCall(Api):
    """Base of the album handlers."""

    route = "album"

    async def form(self) -> Form:
        """The fields of the request; ApiError 400 for a form without an account."""
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0]
        if self.caller.account is None and content_type.strip().lower() == FORM:
            raise ApiError(400, "Bad Request")
        return await super().form()

    def shown(self, album_id: str) -> Album:
        """The album of an id or deletehash; ApiError 404 if there is none."""
        album = self.state.store.album(album_id) or self.state.store.album_of_hash(album_id)
        if album is None:
            raise ApiError(404, f"Unable to find an album with the id, {album_id}")
        return album

    def owned(self, hash_or_id: str) -> Album:
        """The album the caller may change; ApiError 403 if it belongs to another."""
        album = self.owned_album(hash_or_id)
        if album is None:
            self.shown(hash_or_id)
            raise ApiError(403, "Unauthorized")
        return album

    def picked(self, form: Form, album_id: str) -> list[str] | None:
        """The image ids that the form names, all the caller's; None without such a field."""
        hashes = form.texts("deletehashes[]", "deletehashes")
        ids = form.texts("ids[]", "ids")
        if hashes is None and ids is None:
            return None
        images = [self.state.store.image_of_hash(name) for name in hashes or []]
        for name in ids or []:
            image = self.state.store.image(name)
            mine = image is not None and image.account == self.caller.account is not None
            images.append(image if mine else self.state.store.image_of_hash(name))
        if None in images:
            raise ApiError(400, f"You must own all the image ids to add them to album {album_id}")
        return [image.id for image in images if image is not None]

    def images_of(self, album: Album) -> list[dict[str, object]]:
        """The album's images, in order."""
        found = (self.state.store.image(image_id) for image_id in album.images)
        owner = self.caller.account is not None and album.account == self.caller.account
        return [image_view(i, self.state.link_base, owner=owner) for i in found if i is not None]


class Albums(AlbumCall):
    """POST /3/album: title, description, cover, deletehashes[] or ids[] → id and deletehash."""

    async def on_post(self) -> dict[str, object]:
        form = await self.form()
        album = Album(
            id=new_id(),
            deletehash=new_deletehash(),
            datetime=int(time.time()),
            title=form.text("title") or None,
            description=form.text("description") or None,
            cover=form.text("cover") or None,
            account=self.caller.account,
        )
        images = tuple(dict.fromkeys(self.picked(form, album.id) or []))
        await self.state.in_pool(self.state.store.put, replace(album, images=images))
        return {"id": album.id, "deletehash": album.deletehash}


class OneAlbum(AlbumCall):
    """GET|PUT|POST|DELETE /3/album/{id or deletehash}: show, edit, set images, delete."""

    async def on_get(self, album_id: str) -> dict[str, object]:
        album = self.shown(album_id)
        images = self.images_of(album)
        cover = album.cover or (album.images[0] if album.images else None)
        size = self.state.store.image(cover or "")
        return {
            "id": album.id,
            "title": album.title,
            "description": album.description,
            "datetime": album.datetime,
            "cover": cover,
            "cover_width": size.width if size else None,
            "cover_height": size.height if size else None,
            "account_url": ACCOUNT_NAME if album.account else None,
            "account_id": album.account,
            "privacy": "hidden",
            "layout": "blog",
            "views": 0,
            "link": f"{self.state.link_base}/a/{album.id}",
            "favorite": False,
            "nsfw": None,
            "section": None,
            "images_count": len(images),
            "in_gallery": False,
            "images": images,
        }

    async def on_put(self, hash_or_id: str) -> bool:
        album, form = self.owned(hash_or_id), await self.form()
        images = self.picked(form, album.id)
        edited = replace(
            album,
            title=form.text("title", album.title),
            description=form.text("description", album.description),
            cover=form.text("cover", album.cover),
        )
        await self.state.in_pool(self.state.store.put, edited)
        if images is not None:
            await self.state.in_pool(self.state.store.change_images, album.id, lambda _: images)
        return True

    on_post = on_put

    async def on_delete(self, hash_or_id: str) -> bool:
        await self.state.in_pool(self.state.store.delete_album, self.owned(hash_or_id))
        return True


class AlbumImages(AlbumCall):
    """GET /3/album/{id}/images: the images in order."""

    async def on_get(self, album_id: str) -> list[dict[str, object]]:
        return self.images_of(self.shown(album_id))


class AlbumAdd(AlbumCall):
    """POST|PUT /3/album/{deletehash}/add: append the named images."""

    async def on_post(self, hash_or_id: str) -> bool:
        album, form = self.owned(hash_or_id), await self.form()
        more = self.picked(form, hash_or_id) or []
        await self.state.in_pool(
            self.state.store.change_images, album.id, lambda images: [*images, *more]
        )
        return True

    on_put = on_post


class AlbumRemove(AlbumCall):
    """DELETE|POST /3/album/{deletehash}/remove_images?ids=: remove the named images."""

    async def on_delete(self, hash_or_id: str) -> bool:
        album, form = self.owned(hash_or_id), await self.form()
        named = set(form.texts("ids[]", "ids") or [])
        hashes = form.texts("deletehashes[]", "deletehashes") or []
        found = (self.state.store.image_of_hash(name) for name in [*named, *hashes])
        named |= {image.id for image in found if image is not None}
        await self.state.in_pool(
            self.state.store.change_images,
            album.id,
            lambda images: [image_id for image_id in images if image_id not in named],
        )
        return True

    on_post = on_delete
