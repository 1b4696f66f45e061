"""The same image asked for twice: who leads, who follows, and what is known for how long."""

from __future__ import annotations

from imageload.errors import Failure
from imageload.job import Landed, Report
from imageload.sharing import Ended, Follow, Lead, Sharing

REPORT = Report("/tmp/x", 200, 1, "image/png", 1, 1, "5ha")
LANDED = Landed("https://i.imgur.com/a.png", "hash")


def ignore(_: Ended) -> None:
    """A follower that does not care."""


def test_who_comes_first_leads_and_the_others_follow_to_its_end() -> None:
    sharing, told = Sharing(), list[Ended]()
    sharing.begin("one")
    sharing.begin("two")
    assert sharing.claim_url("u", "one", ignore) == Lead()
    assert sharing.claim_url("u", "two", told.append) == Follow()
    ended = Ended(REPORT, LANDED)
    sharing.settle_url("u", ended)
    assert told == [ended]


def test_an_end_by_url_serves_jobs_that_ran_when_it_came_about() -> None:
    sharing, ended = Sharing(), Ended(REPORT, LANDED)
    for job in ("one", "two"):
        sharing.begin(job)
    assert sharing.claim_url("u", "one", ignore) == Lead()
    sharing.settle_url("u", ended)
    sharing.begin("late")
    assert sharing.claim_url("u", "late", ignore) == Lead(), "the content may have changed"
    sharing.settle_url("u", Ended())
    assert sharing.claim_url("u", "two", ignore) == ended


def test_ends_are_forgotten_when_no_job_can_use_them() -> None:
    sharing = Sharing()
    sharing.begin("long")
    for number in range(100):
        sharing.begin("short")
        sharing.claim_url(f"u{number}", "short", ignore)
        sharing.settle_url(f"u{number}", Ended(REPORT, LANDED))
        sharing.end("short")
    assert sharing.ends_kept == 100
    sharing.end("long")
    assert sharing.ends_kept == 0


def test_a_failure_is_told_and_not_kept() -> None:
    sharing, told = Sharing(), list[Ended]()
    failed = Ended(failure=Failure("timeout", "The origin was too slow.", True))
    sharing.begin("one")
    assert sharing.claim_url("u", "one", ignore) == Lead()
    assert sharing.claim_url("u", "two", told.append) == Follow()
    sharing.settle_url("u", failed)
    assert told == [failed]
    assert sharing.claim_url("u", "one", ignore) == Lead()


def test_bytes_that_landed_are_known_until_they_are_forgotten() -> None:
    sharing, told = Sharing(), list[Ended]()
    assert sharing.claim_bytes("5ha", ignore) == Lead()
    assert sharing.claim_bytes("5ha", told.append) == Follow()
    sharing.settle_bytes("5ha", Ended(REPORT, LANDED))
    assert told == [Ended(REPORT, LANDED)]
    assert sharing.claim_bytes("5ha", ignore) == Ended(landed=LANDED)
    sharing.forget({LANDED.link})
    assert sharing.claim_bytes("5ha", ignore) == Lead()


def test_a_leader_that_gives_up_leaves_it_to_the_next() -> None:
    sharing, told = Sharing(), list[Ended]()
    assert sharing.claim_bytes("5ha", ignore) == Lead()
    assert sharing.claim_bytes("5ha", told.append) == Follow()
    sharing.settle_bytes("5ha", Ended())
    assert told == [Ended()]
    assert sharing.claim_bytes("5ha", ignore) == Lead()
