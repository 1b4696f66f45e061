"""Tests of web.news: bounded memory, numbers that only grow, and no news that is missed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from imageload.web.news import SLACK, Blocks, News, place_in


@settings(max_examples=25, deadline=None)
@given(images=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_whoever_comes_back_misses_no_image(images: int, seed: int) -> None:
    chance, news = random.Random(seed), News(images)
    places = [0, 0, 0]
    heard: list[dict[int, int]] = [{} for _ in places]  # by index, when it was last heard of
    added: dict[int, int] = {}
    for moment in range(3 * SLACK):
        index = chance.randrange(images)
        news.add(index)
        added[index] = moment
        reader = chance.randrange(len(places))
        if moment % 50 == reader or moment % 1_009 == 1_008:
            for number, told in news.between(places[reader], news.last):
                assert number > places[reader]
                heard[reader][told] = moment
            places[reader] = news.last
    for reader, place in enumerate(places):
        for _, told in news.between(place, news.last):
            heard[reader][told] = 3 * SLACK
        assert all(heard[reader][index] >= moment for index, moment in added.items())
    assert news.last >= 3 * SLACK


def test_an_image_that_ends_a_million_times_is_kept_once() -> None:
    news = News(2)
    for _ in range(20 * SLACK):
        news.add(0)
    news.add(1)
    assert news.last - news.struck <= SLACK + 5
    assert [index for _, index in news.between(0, news.last)] == [0, 1]


def test_a_listener_that_is_up_to_date_is_told_nothing_again_when_news_are_struck_out() -> None:
    news = News(1)
    for _ in range(10 * SLACK):
        place = news.last
        news.add(0)
        assert [index for _, index in news.between(place, news.last)] == [0]
        assert list(news.between(news.last, news.last)) == []


def test_blocks_forget_the_oldest_when_they_are_too_many() -> None:
    blocks = Blocks()
    for number in range(100):
        blocks.get((number,), lambda: (bytes(100_000), 0))
    assert blocks.encoded == 100
    blocks.get((99,), lambda: (b"", 0))
    assert blocks.encoded == 100
    blocks.get((0,), lambda: (b"", 0))
    assert blocks.encoded == 101


def test_only_an_id_of_ours_names_a_place() -> None:
    assert place_in("token-5", "token", 7) == 5
    assert place_in("token-5-12", "token", 7) == 5
    for event_id in ("token-8", "other-5", "token", "token-", "token--5", "token-٣", "5", ""):
        assert place_in(event_id, "token", 7) == 0
