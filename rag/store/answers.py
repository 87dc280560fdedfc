"""Answers that were given, and what users thought of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from rag.store.changelog import in_parts
from rag.store.database import Database, mark_deleted, retried
from rag.store.ids import new_id
from rag.store.pages import Page, Slice, read_page
from rag.store.service_tables import FeedbackRow, ResponseRow

Rating: TypeAlias = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class NewResponse:
    """An answer to be kept.

    Attributes:
        id: Begins with "resp_".
        project_id: Whose it is.
        previous_id: The answer that it follows in its conversation, or None.
        question: What was asked, as it stands in the conversation.
        answer: What was answered.
        refused: Whether that was a refusal.
        passages: What was found, best first: "file", "file_id", "start", "end", "page", "context",
            "text" of each.
        turns: [role, text] of the conversation with this answer, oldest first.
        body: The object that the client got.
    """

    id: str
    project_id: str
    previous_id: str | None
    question: str
    answer: str
    refused: bool
    passages: Sequence[Mapping[str, Any]]
    turns: Sequence[Sequence[str]]
    body: Mapping[str, Any]


class Responses:
    """The answers of all projects."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, new: NewResponse) -> None:
        """Keep an answer."""
        with self._db.write() as session:
            session.add(
                ResponseRow(
                    id=new.id,
                    project_id=new.project_id,
                    previous_id=new.previous_id,
                    question=new.question,
                    answer=new.answer,
                    refused=new.refused,
                    passages=[dict(passage) for passage in new.passages],
                    turns=[list(turn) for turn in new.turns],
                    body=dict(new.body),
                    created_at=int(time.time()),
                )
            )

    def get(self, project_id: str, response_id: str) -> ResponseRow | None:
        """Return an answer that the project owns, or None."""
        with self._db.read() as session:
            row = session.get(ResponseRow, response_id)
            session.expunge_all()
            return row if row is not None and row.project_id == project_id else None

    def delete(self, response_id: str) -> None:
        """Forget an answer, and what was thought of it."""
        with self._db.write() as session:
            session.execute(delete(FeedbackRow).where(FeedbackRow.response_id == response_id))
            session.execute(delete(ResponseRow).where(ResponseRow.id == response_id))
            mark_deleted(session)

    @retried
    def forget_before(self, moment: int) -> int:
        """Forget unrated answers given before a moment, Unix seconds; return how many."""
        unrated = ResponseRow.id.not_in(select(FeedbackRow.response_id))
        forgotten = 0
        with self._db.write() as session:
            old = select(ResponseRow.id).where(ResponseRow.created_at < moment, unrated)
            ids = list(session.scalars(old.with_for_update(skip_locked=True)))
            for part in in_parts(ids):  # one may have been rated just before it was locked
                gone = delete(ResponseRow).where(ResponseRow.id.in_(part), unrated)
                forgotten += len(session.scalars(gone.returning(ResponseRow.id)).all())
            if forgotten:
                mark_deleted(session)
            return forgotten

    # -- feedback ------------------------------------------------------------------------------

    def rate(
        self, response: ResponseRow, rating: Rating, correction: str | None, comment: str | None
    ) -> FeedbackRow | None:
        """Record what a user thinks of an answer; a second opinion does not replace the first.

        Returns:
            What was recorded; None if the answer has been deleted meanwhile.
        """
        row = FeedbackRow(
            id=new_id("fb_"),
            project_id=response.project_id,
            response_id=response.id,
            rating=rating,
            correction=correction,
            comment=comment,
            created_at=int(time.time()),
        )
        try:
            with self._db.write() as session:
                session.add(row)
                session.flush()
                session.expunge(row)
        except IntegrityError:
            return None
        return row

    def feedback(
        self, project_id: str, part: Slice, rating: Rating | None = None
    ) -> Page[FeedbackRow]:
        """Return a page of a project's feedback.

        Raises:
            CursorError: If the page's cursor is no feedback of the list.
        """
        query = select(FeedbackRow).where(FeedbackRow.project_id == project_id)
        if rating is not None:
            query = query.where(FeedbackRow.rating == rating)
        with self._db.read() as session:
            found = read_page(session, query, (FeedbackRow.created_at, FeedbackRow.id), part)
            session.expunge_all()
            return found

    def rated(self, project_id: str) -> Iterator[tuple[FeedbackRow, ResponseRow]]:
        """Yield the last feedback on each answer of a project, oldest first."""
        last = ""
        latest = select(func.max(FeedbackRow.id)).group_by(FeedbackRow.response_id)
        while True:
            with self._db.read() as session:
                found = session.execute(
                    select(FeedbackRow, ResponseRow)
                    .join(ResponseRow, ResponseRow.id == FeedbackRow.response_id)
                    .where(
                        FeedbackRow.project_id == project_id,
                        FeedbackRow.id > last,
                        FeedbackRow.id.in_(latest),
                    )
                    .order_by(FeedbackRow.id)
                    .limit(100)
                ).all()
                session.expunge_all()
            if not found:
                return
            yield from ((feedback, response) for feedback, response in found)
            last = found[-1][0].id
