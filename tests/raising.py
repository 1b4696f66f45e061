"""`pytest.raises` for errors that have a name instead of a class."""

from __future__ import annotations

import pytest

from imageload.errors import ImageError, Refused


def raises_error(name: str, match: str | None = None) -> pytest.RaisesExc[ImageError]:
    """Passes if the block raises the ImageError of this row of ERRORS."""
    return pytest.raises(ImageError, match=match, check=lambda error: error.name == name)


def raises_refused(slug: str, match: str | None = None) -> pytest.RaisesExc[Refused]:
    """Passes if the block raises the Refused of this row of REFUSALS."""
    return pytest.raises(Refused, match=match, check=lambda error: error.slug == slug)
