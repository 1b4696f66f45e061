"""Jobs, links and keys that leave: retired, deleted, purged, dead. One node at a time does it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from imageload.store.postgres.connections import Connection

_RETIRE_LOCK = 0x696D6C72
_PURGE_LOCK = 0x696D6C70
_AT_ONCE = 1_000


def retire(connection: Connection, job_ids: Sequence[str]) -> None:
    """Drop jobs from the list of jobs; a key goes with its last job."""
    _delete_keys(connection, connection.execute(_RETIRE, (job_ids,)).fetchall())
    _delete_of_retired(connection)


def retire_finished(connection: Connection, keep_jobs: int, keep_seconds: float) -> int:
    """Retire the oldest jobs without open work that are more, or older, than are kept.

    At most 1,000; how many they are. 0 if another node does it at this moment.
    """
    (is_ours,) = connection.execute(_TRY_LOCK, (_RETIRE_LOCK,)).fetchone() or (False,)
    if not is_ours:
        return 0
    keep = keep_jobs, min(keep_seconds, 2.0**40), _AT_ONCE
    keys = connection.execute(_RETIRE_FINISHED, keep).fetchall()
    _delete_keys(connection, keys)
    _delete_of_retired(connection)
    return len(keys)


def delete(connection: Connection, job_ids: Sequence[str]) -> None:
    """Delete jobs with all that belongs to them."""
    connection.execute(_FORGET_CONTENT_OF, (job_ids,))
    _delete_keys(connection, connection.execute(_DELETE, (job_ids,)).fetchall())


def _delete_of_retired(connection: Connection) -> None:
    connection.execute(_DELETE_DOCUMENTS)
    connection.execute(_DELETE_CHECKS)


def _delete_keys(connection: Connection, keys: Collection[tuple[str | None, str | None]]) -> None:
    used = {key for key in keys if key[0] is not None}
    if used:
        connection.execute(_DELETE_KEYS, [*map(list, zip(*used, strict=True))])


def links_to_leave(connection: Connection, job_id: str, links: Sequence[str]) -> set[str]:
    """Those of the links that other jobs have.

    A job whose purge has been here does not count: otherwise two jobs with a common link, purged at
    the same time, would each leave it to the other.
    """
    connection.execute(_LOCK, (_PURGE_LOCK,))
    forget(connection, links)  # first: no other job finds one from now on
    connection.execute(_LEAVING, (job_id,))
    return {link for (link,) in connection.execute(_LINKS_OF_OTHERS, (links, job_id))}


def forget(connection: Connection, links: Collection[str]) -> None:
    """Have no other image reuse one of these links."""
    connection.execute(_FORGET_CONTENT, (sorted(links),))


_LOCK = b"SELECT pg_advisory_xact_lock(%s)"
_TRY_LOCK = b"SELECT pg_try_advisory_xact_lock(%s)"
_RETIRE = b"UPDATE job SET retired = true WHERE id = ANY(%s) RETURNING caller, key"
_RETIRE_FINISHED = b"""
    UPDATE job SET retired = true WHERE number IN (
        SELECT number FROM (
            SELECT number, created, row_number() OVER (ORDER BY number DESC) AS rank
            FROM job WHERE NOT retired AND NOT EXISTS (
                SELECT FROM slice WHERE slice.job = job.number AND slice.open)) AS over
        WHERE rank > %s OR created < extract(epoch FROM now()) - %s ORDER BY number LIMIT %s)
    RETURNING caller, key"""
_DELETE = b"DELETE FROM job WHERE id = ANY(%s) RETURNING caller, key"
_DELETE_KEYS = b"""
    DELETE FROM posted USING unnest(%s::text[], %s::text[]) AS gone (caller, key)
    WHERE posted.caller = gone.caller AND posted.key = gone.key AND NOT EXISTS (
        SELECT FROM job WHERE id = ANY(posted.job_ids) AND NOT retired)"""
_DELETE_DOCUMENTS = b"""
    DELETE FROM document USING job WHERE job.number = document.job AND job.retired"""
_DELETE_CHECKS = b"""
    DELETE FROM checked USING job WHERE job.number = checked.job AND job.retired"""
_FORGET_CONTENT = b"DELETE FROM content WHERE link = ANY(%s)"
_FORGET_CONTENT_OF = b"""
    DELETE FROM content USING image, job
    WHERE content.link = image.link AND image.job = job.number AND job.id = ANY(%s)"""
_LEAVING = b"UPDATE job SET leaving = true WHERE id = %s"
_LINKS_OF_OTHERS = b"""
    SELECT link FROM unnest(%s::text[]) AS mine (link) WHERE EXISTS (
        SELECT FROM image JOIN job ON job.number = image.job
        WHERE image.link = mine.link AND job.id <> %s AND NOT job.leaving)"""
