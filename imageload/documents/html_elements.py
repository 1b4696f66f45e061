"""Which elements and attributes of HTML and XML show images."""

from __future__ import annotations

import re

LAZY = {
    **dict.fromkeys(["data-src", "data-lazy-src", "data-lazy", "data-echo", "data-url"], 1),
    **dict.fromkeys(
        ["data-image", "data-original-src", "data-image-src", "data-flickity-lazyload"], 1
    ),
    **dict.fromkeys(["data-original", "data-large_image", "data-large-image", "data-full"], 2),
    **dict.fromkeys(["data-full-src", "data-zoom-image", "data-hi-res-src", "data-orig-file"], 2),
}
"""Attributes with the URL of an `<img>`; 2 is for its full size."""
SRCSETS = {"srcset", "data-srcset", "data-lazy-srcset", "data-original-set", "imagesrcset"}
BACKGROUNDS = {
    *("data-bg", "data-bgset", "data-setbg", "data-poster"),
    *("data-background", "data-background-image", "data-background-url"),
}
IMAGES = {"img", "amp-img", "amp-anim", "v:imagedata", "v:fill"}
COMPONENTS = ("-img", "-image")  # components of that name: `<v-img src>`
OTHERS = {
    "video": ("poster",),
    "amp-video": ("poster",),
    "image": ("src", "href", "xlink:href"),  # browsers read `<image src>` as an `<img>`
    "feimage": ("href", "xlink:href"),
    "figure": ("src",),  # a shortcode of Hugo
    "a": ("icon_uri",),  # of browsers' bookmarks
    "body": ("background",),
    "table": ("background",),
    "tr": ("background",),
    "td": ("background",),
    "th": ("background",),
    "media:thumbnail": ("url",),
    "itunes:image": ("href",),
    "ri:url": ("ri:value",),
    "imagedata": ("fileref",),  # of DocBook
    **dict.fromkeys(["graphic", "inline-graphic"], ("fileref", "xlink:href")),  # and of JATS
    "draw:image": ("xlink:href",),  # of OpenDocument
}
ENDS_IMAGE = {"picture", "source", *IMAGES}  # also without attributes
TYPED = {
    "input": "src",
    "object": "data",
    "embed": "src",
    "enclosure": "url",
    "media:content": "url",
}
# Of their attributes those are read that may have an image. `<use>` needs its SVG.
WELL_KNOWN = {*ENDS_IMAGE, *TYPED, "a", "link", "meta", "use"}
BOUND = {":src", "v-bind:src", "[src]"}  # expressions of Vue and Angular
META = re.compile(
    r"(?:og:image|twitter:image)(?::url|:secure_url|:src)?|image|thumbnail(?:url)?"
    r"|msapplication-\w+logo|msapplication-tileimage",
    re.IGNORECASE,
)
ICON = re.compile(
    r"(?:^|[\s-])(?:icon|image_src|apple-touch-startup-image)(?:$|[\s-])", re.IGNORECASE
)
