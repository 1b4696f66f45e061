"""The command `check`: asks for every link of a job, and has dead ones replaced."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from imageload.cli.client import Client
from imageload.cli.commands import client_and_job, print_result
from imageload.cli.output import count_of, kept_lines, print_message
from imageload.cli.progress import Progress, follow, open_screen

_PAUSE = 0.2
_DEAD = ("gone", "replaced")


def check(arguments: argparse.Namespace) -> int:
    """Print the links that are not alive. 0 if there are none, or all of them were replaced."""
    client, job_id = client_and_job(arguments)
    result = _follow_check(client, job_id)
    found = result["links"] = list(client.checked_links(job_id))
    lines = [
        f"{each['state']} {each['status_code'] or '-'} {each['link']} {each['url']}"
        for each in found
    ]
    counts = ", ".join(f"{count:,} {state}" for state, count in result["counts"].items() if count)
    summary = f"{count_of(result['total'], 'link')}: {counts}" if counts else "no link to check"
    if not arguments.rehost:
        print_result(result, lines, arguments)
        print_message(summary)
        return 1 if found else 0
    for line in lines:
        print_message(line)
    print_message(summary)
    dead = [each for each in found if each["state"] in _DEAD]
    if dead:
        _rehost(client, job_id, dead)
    replaced = [each for each in dead if each["error"] is None]
    print_result(result, [f"{each['link']} {each['new_link']}" for each in replaced], arguments)
    kept = [each for each in dead if each["error"] is not None]
    for line in kept_lines("not replaced", "links", kept):
        print_message(line)
    if dead:
        print_message(f"{len(replaced):,} of {count_of(len(dead), 'dead link')} replaced")
    return 0 if len(replaced) == len(found) else 1


def _follow_check(client: Client, job_id: str) -> dict[str, Any]:
    """The result of a check, whose progress is shown."""
    result = client.check(job_id)
    with open_screen() as screen:
        while True:
            progress = Progress(result["total"], result["checked"], done_word="checked")
            screen.show(progress, finished=result["finished"], waits=False)
            if result["finished"]:
                return result
            time.sleep(_PAUSE)
            result = client.checked(job_id)


def _rehost(client: Client, job_id: str, dead: Sequence[dict[str, Any]]) -> None:
    """Load images again. Each gets its `new_link`, or the `error` that kept the old one."""
    count = client.rehost(job_id)
    print_message(f"loading {count_of(count, 'image')} again")
    follow(client, [job_id])
    records = list(client.records(job_id))
    for each in dead:
        record = records[each["number"] - 1]
        each["error"] = record["error"]
        each["new_link"] = record["link"] if record["error"] is None else None
