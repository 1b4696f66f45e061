"""A stand-in for Imgur: the upload API and the image host, in Tornado, on one port.

    POST /3/image, /3/upload ── handler ── call ── api ── body ── picture ── store ── disk
           (any body form)      cap,      who,           bytes    Pillow    id, JSON    │
                                fault     charge                                        │
    GET /<id>.<ext> ──────────────────────────────────────────────── host ──────────────┘

Its responses copy Imgur's, with budgets and errors, so that a client that works here works there;
each module names the public source of the behaviour it copies. It runs as a process of its own
(`python -m sandbox`, or `python -m imageload.sandbox` where the wheel is installed) or in a test's
process (`sandbox.testing`). The event loop never decodes images or waits for the disk.

It never sends requests, except for `type=url` uploads with `--fetch-urls`.

Deliberate differences: images are recompressed with `--recompress` only (Imgur makes JPEGs of PNGs
over 5 MB and of anonymous stills over 1 MB, and PNGs of TIFFs); there is no video, GIFV or MP4;
views stay 0; there is one account; nothing expires; an album has no page of its own.
"""

from .app import Sandbox
from .options import Options

__all__ = ["Options", "Sandbox"]
