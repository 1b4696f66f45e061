"""Image URLs in documents: found by each kind's parser, and replaced by links where they stand.

`read_document` makes a `Document` of bytes; `Document.find` finds its images, and
`Document.replaced` gives the bytes with links. Nothing here does I/O.
"""

from imageload.documents.document import Document, read_document
from imageload.documents.found import Finds, Found, Ignored
from imageload.documents.kinds import KINDS

__all__ = ["KINDS", "Document", "Finds", "Found", "Ignored", "read_document"]
