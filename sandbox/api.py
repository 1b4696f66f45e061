"""Uploads, images, credits, and the account's images."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

from tornado.httpclient import HTTPClientError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from .body import Form
from .call import Api
from .envelope import ApiError
from .picture import NotAnImage, cleaned, recompressed
from .store import Album, StoredImage, new_deletehash, new_id
from .views import image_view, uploaded_view

FETCH_SECONDS = 15.0
PAGE = 50


class Upload(Api):
    """POST|PUT /3/image and /3/upload: an image in any of sandbox/body.py's forms → its link."""

    route = "upload"
    cost = 10
    new_order = True

    async def on_post(self) -> dict[str, object]:
        stats = self.state.stats
        stats.uploads_now += 1
        stats.uploads_at_most = max(stats.uploads_at_most, stats.uploads_now)
        try:
            return await self._upload()
        finally:
            stats.uploads_now -= 1

    on_put = on_post

    async def _upload(self) -> dict[str, object]:
        form = await self.form()
        album = self._album(form)
        content, url = await self.state.off_loop(form.size, form.image)
        if url:
            content = await self._fetched(url)
        if not content:
            raise ApiError(400, "No image data was sent to the upload api")
        if len(content) > self.state.options.max_image_bytes:
            raise ApiError(413, "file is over the size limit")
        image = await self.state.in_pool(self._kept, content, form)
        if album is not None:
            await self.state.in_pool(
                self.state.store.change_images, album.id, lambda ids: [*ids, image.id]
            )
        self.state.stats.uploads += 1
        self.state.stats.move()
        return uploaded_view(image, self.state.link_base, old=self.old_shape)

    def _kept(self, content: bytes, form: Form) -> StoredImage:
        """The image, checked, cleaned and stored. Runs in the thread pool."""
        owner = self.caller.account
        try:
            picture, kept = cleaned(content)
            if self.state.options.recompress:
                picture, kept = recompressed(picture, kept, anonymous=owner is None)
        except NotAnImage as error:
            raise ApiError(400, "File type invalid (1)", shape=2, code=1003) from error
        image = StoredImage(
            id=new_id(),
            deletehash=new_deletehash(),
            type=picture.type,
            width=picture.width,
            height=picture.height,
            size=len(kept),
            sha256=hashlib.sha256(content).hexdigest(),
            animated=picture.animated,
            datetime=int(time.time()),
            title=form.text("title") or None,
            description=form.text("description") or None,
            name=form.text("name") or (form.filename if owner else ""),
            account=owner,
        )
        self.state.store.add(image, kept)
        return image

    def _album(self, form: Form) -> Album | None:
        wanted = form.text("album")
        if not wanted:
            return None
        album = self.owned_album(wanted)
        if album is None:
            raise ApiError(
                400,
                f"You are not the owner of album '{wanted}', which means you can't add images to "
                "it. For anonymous albums, use the album deletehash.",
            )
        return album

    async def _fetched(self, url: str) -> bytes:
        if not self.state.options.fetch_urls or not url.startswith(("http://", "https://")):
            raise ApiError(400, f"Invalid URL ({url})")
        cap = self.state.options.max_image_bytes
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=cap)
        try:
            response = await client.fetch(
                url, request_timeout=FETCH_SECONDS, connect_timeout=FETCH_SECONDS, max_redirects=3
            )
            return response.body
        except (HTTPClientError, OSError, ValueError) as error:
            raise ApiError(400, f"Invalid URL ({url})") from error
        finally:
            client.close()


class Image(Api):
    """GET|POST|PUT|DELETE /3/image/{id or deletehash}: show, rename, delete."""

    route = "image"

    async def on_get(self, image_id: str) -> dict[str, object]:
        image = self.state.store.image(image_id)
        if image is None:
            raise ApiError(404, f"Unable to find an image with the id, {image_id}")
        owner = self.caller.account is not None and image.account == self.caller.account
        return image_view(image, self.state.link_base, owner=owner)

    async def on_post(self, hash_or_id: str) -> bool:
        image, form = self.owned_image(hash_or_id), await self.form()
        await self.state.in_pool(
            self.state.store.put,
            replace(
                image,
                title=form.text("title", image.title),
                description=form.text("description", image.description),
            ),
        )
        return True

    on_put = on_post

    async def on_delete(self, hash_or_id: str) -> bool:
        image = self.owned_image(hash_or_id)
        await self.state.in_pool(self.state.store.delete_image, image)
        return True


class Favorite(Api):
    """POST /3/image/{id}/favorite: toggle; "favorited" or "unfavorited"."""

    route = "image"

    async def on_post(self, image_id: str) -> str:
        if self.caller.account is None:
            raise ApiError(403, "This method requires authentication")
        image = self.state.store.image(image_id)
        if image is None:
            raise ApiError(404, f"Unable to find an image with the id, {image_id}")
        changed = replace(image, favorite=not image.favorite)
        await self.state.in_pool(self.state.store.put, changed)
        return "favorited" if changed.favorite else "unfavorited"


class Credits(Api):
    """GET /3/credits: the caller's remaining credits; nothing without limits."""

    route = "credits"

    async def on_get(self) -> dict[str, int]:
        budgets = self.state.limits.budgets(self.caller, self.state.options)
        return {} if self.state.options.unlimited else self.state.limits.credits(budgets)


class AccountImages(Api):
    """GET /3/account/me/images/{page}: the account's images, newest first, 50 a page."""

    route = "account"

    async def on_get(self, page: str | None) -> list[dict[str, object]]:
        if self.caller.account is None:
            raise ApiError(403, "This method requires authentication")
        own = [i for i in self.state.store.images() if i.account == self.caller.account]
        begin = int(page or 0) * PAGE
        shown = own[::-1][begin : begin + PAGE]
        return [image_view(image, self.state.link_base, owner=True) for image in shown]


class Unknown(Api):
    """Any other path under the API: 404."""

    async def on_get(self, *_: str | None) -> None:
        raise ApiError(404, "Unable to find the requested endpoint")

    on_post = on_put = on_delete = on_get
