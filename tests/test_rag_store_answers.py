"""Answers that were given, and what users thought of them."""

from __future__ import annotations

import pytest
from service_samples import count, new_project

from rag.errors import CursorError
from rag.store.answers import NewResponse, Rating, Responses
from rag.store.database import Database
from rag.store.ids import new_id
from rag.store.pages import Slice
from rag.store.service_tables import FeedbackRow, ResponseRow
from rag.store.tables import DEFAULT_PROJECT

PASSAGE = {"file": "手册.md", "page": None, "context": "A > B", "text": "泵 \u2028 😀\n"}


@pytest.fixture
def responses(db: Database) -> Responses:
    return Responses(db)


def keep(
    responses: Responses, project: str = DEFAULT_PROJECT, previous: str | None = None
) -> ResponseRow:
    new = NewResponse(
        id=new_id("resp_"),
        project_id=project,
        previous_id=previous,
        question="多久换油？",
        answer="每月。",
        refused=False,
        passages=(PASSAGE,),
        turns=(("user", "多久换油？"), ("assistant", "每月。")),
        body={"id": "x", "output": [{"text": "每月。", "n": 1.5, "none": None}]},
    )
    responses.add(new)
    row = responses.get(project, new.id)
    assert row is not None
    return row


def test_what_is_kept_comes_back(responses: Responses) -> None:
    first = keep(responses)
    row = keep(responses, previous=first.id)

    assert (row.previous_id, row.question, row.answer, row.refused) == (
        first.id,
        "多久换油？",
        "每月。",
        False,
    )
    assert row.passages == [PASSAGE]
    assert row.turns == [["user", "多久换油？"], ["assistant", "每月。"]]
    assert row.body == {"id": "x", "output": [{"text": "每月。", "n": 1.5, "none": None}]}
    assert row.created_at > 0
    assert responses.get(DEFAULT_PROJECT, "resp_none") is None


def test_deleting_one_takes_its_feedback_and_nothing_else(responses: Responses) -> None:
    gone, stays = keep(responses), keep(responses)
    for row in (gone, gone, stays):
        responses.rate(row, "down", None, None)

    responses.delete(gone.id)
    responses.delete(gone.id)

    assert responses.get(DEFAULT_PROJECT, gone.id) is None
    assert responses.get(DEFAULT_PROJECT, stays.id) is not None
    left = responses.feedback(DEFAULT_PROJECT, Slice()).items
    assert [row.response_id for row in left] == [stays.id]


@pytest.mark.parametrize("rating", ["up", "down"])
def test_every_opinion_is_kept(responses: Responses, rating: Rating) -> None:
    answer = keep(responses)
    first = responses.rate(answer, rating, "每周。", "见第 3 页")
    second = responses.rate(answer, "up", None, None)
    assert first is not None
    assert second is not None

    found = responses.feedback(DEFAULT_PROJECT, Slice(order="asc")).items

    assert [row.id for row in found] == [first.id, second.id]
    assert (found[0].rating, found[0].correction, found[0].comment) == (
        rating,
        "每周。",
        "见第 3 页",
    )
    other: Rating = "down" if rating == "up" else "up"
    assert [row.id for row in responses.feedback(DEFAULT_PROJECT, Slice(), other).items] == (
        [second.id] if other == "up" else []
    )
    page = responses.feedback(DEFAULT_PROJECT, Slice(1, "asc"), "up")
    assert page.has_more == (rating == "up")
    with pytest.raises(CursorError):
        responses.feedback(new_project(responses._db), Slice(after=first.id))


def test_all_feedback_is_met_once_oldest_first(responses: Responses) -> None:
    answers = [keep(responses) for _ in range(105)]
    foreign = keep(responses, new_project(responses._db))
    given = [responses.rate(answer, "up", "said", None) for answer in answers]
    responses.rate(foreign, "up", None, None)

    met = list(responses.rated(DEFAULT_PROJECT))

    assert sorted(feedback.id for feedback, _ in met) == sorted(row.id for row in given if row)
    assert [f.id for f, _ in met] == sorted(f.id for f, _ in met)
    assert all(feedback.response_id == answer.id for feedback, answer in met)
    assert all(answer.passages == [PASSAGE] for _, answer in met)
    assert count(responses._db, FeedbackRow) == 106
