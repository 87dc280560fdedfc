"""Takes the text of files that are gone out of the answers that were given from them.

The answers stay: their ids, questions, ratings, and their places in conversations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Text, cast, or_, select
from sqlalchemy.orm import Session

from rag.store.changelog import in_parts
from rag.store.service_tables import ResponseRow
from rag.store.tables import DocumentRow

REMOVED = "[Removed: a document that this answer was made from has been deleted.]"
"""What an answer reads then."""


def redact_answers(session: Session, file_ids: Sequence[str]) -> int:
    """Remove the passages of files from all answers, and the answers that quote them.

    An answer is removed if it cites one of the files, or cites nothing and had their passages
    before it. Later turns of its conversation repeat it no more.

    Args:
        session: A write transaction.
        file_ids: Files whose text goes.

    Returns:
        How many answers were changed.
    """
    gone = set(file_ids) - {""}
    changed: dict[str, str] = {}  # the removed answer by the response's id, "" if it stays
    for part in in_parts(sorted(gone)):
        passages = cast(ResponseRow.passages, Text)
        query = select(ResponseRow).where(or_(*(passages.contains(id_) for id_ in part)))
        for row in session.scalars(query):
            changed[row.id] = _redact(row, gone)
    removed = {answer for answer in changed.values() if answer}
    if removed:
        _redact_later_turns(session, set(changed), removed)
    session.flush()
    return len(changed)


def redact_gone(session: Session, file_ids: Sequence[str]) -> None:
    """Redact the answers from those of some files of which no document is left in any store."""
    left: set[str] = set()
    for part in in_parts(file_ids):
        query = select(DocumentRow.file_id).where(DocumentRow.file_id.in_(part))
        left |= set(session.scalars(query))
    redact_answers(session, sorted(set(file_ids) - left))


def list_files(session: Session, document_ids: Sequence[int]) -> list[str]:
    """Return the ids of the files of documents."""
    found: list[str] = []
    for part in in_parts(document_ids):
        query = select(DocumentRow.file_id).where(DocumentRow.id.in_(part))
        found += session.scalars(query)
    return found


def _redact(row: ResponseRow, gone: set[str]) -> str:
    """Redact one answer; return its text if it was removed, else ""."""
    kept = [passage for passage in row.passages if passage.get("file_id") not in gone]
    if len(kept) == len(row.passages):
        return ""
    cited = {note.get("file_id") for text in _texts(row.body) for note in text["annotations"]}
    quotes = bool(cited & gone) or not (cited or row.refused)
    row.passages = kept
    row.body = _redacted_body(row.body, gone, quotes=quotes)
    if not quotes:
        return ""
    answer, row.answer = row.answer, REMOVED
    row.turns = _without(row.turns, {answer})
    return answer


def _redacted_body(body: dict[str, Any], gone: set[str], *, quotes: bool) -> dict[str, Any]:
    body = copy.deepcopy(body)
    for item in body.get("output") or []:
        if item.get("results"):
            item["results"] = [r for r in item["results"] if r.get("file_id") not in gone]
    if quotes:
        for text in _texts(body):
            text["text"], text["annotations"] = REMOVED, []
        account = body.get("youju")
        if account:
            account["unsupported"] = []
    return body


def _texts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pieces of text of a response's messages."""
    items = body.get("output") or []
    return [text for item in items for text in item.get("content") or [] if "annotations" in text]


def _redact_later_turns(session: Session, changed: set[str], removed: set[str]) -> None:
    """Redact the conversations that go on from removed answers."""
    before = select(ResponseRow.id, ResponseRow.previous_id).order_by(ResponseRow.created_at)
    following: dict[str, list[str]] = {}
    for id_, previous in session.execute(before.where(ResponseRow.previous_id.is_not(None))):
        following.setdefault(str(previous), []).append(id_)
    waiting, later = sorted(changed), set(changed)
    while waiting:
        new = [id_ for id_ in following.get(waiting.pop(), ()) if id_ not in later]
        waiting += new
        later |= set(new)
    for part in in_parts(sorted(later)):
        for row in session.scalars(select(ResponseRow).where(ResponseRow.id.in_(part))):
            row.turns = _without(row.turns, removed)


def _without(turns: Sequence[Sequence[str]], removed: set[str]) -> list[list[str]]:
    return [
        [role, REMOVED if role == "assistant" and text in removed else text] for role, text in turns
    ]
