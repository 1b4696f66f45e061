"""The command `check`: asks for every link of a job, and has dead ones replaced."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from imageload.cli.client import Client
from imageload.cli.commands import client_and_job
from imageload.cli.output import print_lines, print_message
from imageload.cli.progress import Progress, follow, open_screen

_PAUSE = 0.2
_DEAD = ("gone", "replaced")


def check(arguments: argparse.Namespace) -> int:
    """Print the links that are not alive. 0 if there are none, or all of them were replaced."""
    client, job_id = client_and_job(arguments)
    result = _follow_check(client, job_id)
    found = list(client.checked_links(job_id))
    lines = [
        f"{each['state']} {each['status_code'] or '-'} {each['link']} {each['url']}"
        for each in found
    ]
    if arguments.rehost:
        for line in lines:
            print_message(line)
    else:
        print_lines(lines)
    counts = result["counts"].items()
    print_message(", ".join(f"{count:,} {state}" for state, count in counts if count) or "no links")
    dead = [each for each in found if each["state"] in _DEAD]
    left = len(found) - len(dead)
    if arguments.rehost and dead:
        left += _rehost(client, job_id, dead)
        return 1 if left else 0
    return 1 if found else 0


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


def _rehost(client: Client, job_id: str, dead: Sequence[dict[str, Any]]) -> int:
    """Load images again, and print their old and new links; how many kept their dead links."""
    count = client.rehost(job_id)
    print_message(f"loading {count:,} image{'' if count == 1 else 's'} again")
    follow(client, [job_id])
    records, failed = list(client.records(job_id)), 0
    for each in dead:
        record = records[each["number"] - 1]
        if record["error"] is None:
            print_lines([f"{each['link']} {record['link']}"])
        else:
            failed += 1
            print_message(f"not replaced {each['link']} {record['error']['message']}")
    return failed
