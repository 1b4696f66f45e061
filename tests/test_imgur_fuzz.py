"""A few random responses of Imgur; `python -m tests.soak --imgur=5000` sends more."""

from __future__ import annotations

from tests.imgur_fuzz import wrong_ends
from tests.transfers import running_transport


def test_every_response_of_imgur_ends_with_a_result_or_an_error_of_ours() -> None:
    with running_transport() as transport:
        wrong, ends = wrong_ends(transport, 300, seed=1)
    assert not wrong, wrong[0]
    assert ends["Landed"]
    assert len(ends) > 8, ends
