"""An Imgur of one's own: the upload API and the image host, in Tornado, on one port.

    POST /3/image, /3/upload ── handler ── call ── api ── body ── picture ── store ── disk
           (any body form)      cap,      who,           bytes    Pillow    id, JSON    │
                                fault     charge                                        │
    GET /<id>.<ext> ──────────────────────────────────────────────── host ──────────────┘

It answers as Imgur has been seen to answer, with real budgets and real errors, so that a client
which is right here is right there; each module names the public source of what it copies. It runs
by itself (`python -m sandbox`), or in a test's own process (`sandbox.testing`). The event loop
decodes no image and waits for no disk.

What it never does: talk to Imgur, or to anybody else unless told to (`--fetch-urls`).

Not faithful, on purpose: images are kept exactly as sent (Imgur recompresses large ones, turns
PNGs over 5 MB into JPEGs and TIFFs into PNGs); there is no video, GIFV or MP4; views stay 0; there
is one account; nothing expires; an album has no page of its own.
"""

from .app import Sandbox
from .options import Options

__all__ = ["Options", "Sandbox"]
