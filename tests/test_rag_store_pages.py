"""Lists in pages: every object once, in order, forwards and backwards, and whether more follows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import NewDatabase
from service_samples import new_project
from sqlalchemy import update

from rag.errors import CursorError
from rag.store.blobs import Blobs
from rag.store.database import Database
from rag.store.files import Files
from rag.store.ids import new_id
from rag.store.pages import Page, Slice
from rag.store.service_tables import FileRow

Order = Literal["asc", "desc"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("pages")
    db = Database(new_database(folder))
    yield Files(db, Blobs(folder / "blobs"))
    db.close()


def fill(files: Files, ages: list[int], expires_at: int | None = None) -> tuple[str, list[str]]:
    """Give a new project files of those ages; return it and the ids, oldest first."""
    project = new_project(files._db)
    rows = [
        FileRow(
            id=new_id("file-"), project_id=project, filename="a", bytes=1, sha256="0", kept=False,
            purpose="assistants", media_type="text/plain", created_at=age, expires_at=expires_at,
        )
        for age in ages
    ]  # fmt: skip
    ids = [row.id for row in sorted(rows, key=lambda row: (row.created_at, row.id))]
    with files._db.write() as session:
        session.add_all(rows)
    return project, ids


def ids_of(page: Page[FileRow]) -> list[str]:
    return [row.id for row in page.items]


@settings(deadline=None, max_examples=40)
@given(
    ages=st.lists(st.integers(0, 3), max_size=12),
    limit=st.integers(1, 14),
    order=st.sampled_from(["asc", "desc"]),
    data=st.data(),
)
def test_a_walk_meets_every_object_once_and_in_order(
    files: Files, ages: list[int], limit: int, order: Order, data: st.DataObject
) -> None:
    fill(files, [1, 2])  # another project's files are never met
    project, ids = fill(files, ages)
    expected = ids if order == "asc" else ids[::-1]

    met: list[str] = []
    more = True
    while more:
        page = files.page(project, Slice(limit, order, after=met[-1] if met else ""))
        met += ids_of(page)
        more = page.has_more
        assert len(page.items) == limit or not more
        assert more == (len(met) < len(expected))
    assert met == expected
    if not expected:
        return

    begin = data.draw(st.integers(0, len(expected) - 1))
    met = [expected[begin]]
    more = True
    while more:
        page = files.page(project, Slice(limit, order, before=met[0]))
        met = ids_of(page) + met
        more = page.has_more
        assert more == (len(met) < begin + 1)
    assert met == expected[: begin + 1]


@settings(deadline=None, max_examples=30)
@given(size=st.integers(2, 8), limit=st.integers(1, 9), order=st.sampled_from(["asc", "desc"]),
       data=st.data())  # fmt: skip
def test_two_cursors_bound_a_stretch(
    files: Files, size: int, limit: int, order: Order, data: st.DataObject
) -> None:
    project, ids = fill(files, [0] * size)
    expected = ids if order == "asc" else ids[::-1]
    first, last = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    between = expected[first + 1 : last]

    page = files.page(project, Slice(limit, order, after=expected[first], before=expected[last]))

    assert ids_of(page) == between[:limit]
    assert page.has_more == (len(between) > limit)


def test_a_cursor_of_another_list_is_refused(files: Files) -> None:
    project, foreign = fill(files, [1])
    for part in (
        Slice(after="vs_" + foreign[0].removeprefix("file-")),
        Slice(before=foreign[0].upper()),
        Slice(after=foreign[0][:-1]),
        Slice(after="file-x" * 50),
        Slice(before="' OR 1=1 --"),
    ):
        with pytest.raises(CursorError, match="not in this list") as caught:
            files.page(project, part)
        assert len(str(caught.value)) < 300


def test_a_file_that_expired_still_says_where_the_next_page_begins(files: Files) -> None:
    project, ids = fill(files, [1, 2, 3])
    with files._db.write() as session:
        session.execute(update(FileRow).where(FileRow.id == ids[1]).values(expires_at=5))

    assert ids_of(files.page(project, Slice(1, "asc", after=ids[1]))) == ids[2:]
    assert ids_of(files.page(project, Slice(9, "asc"))) == [ids[0], ids[2]]


def test_files_of_one_purpose(files: Files) -> None:
    project, ids = fill(files, [1, 2, 3])
    with files._db.write() as session:
        session.execute(update(FileRow).where(FileRow.id == ids[1]).values(purpose="user_data"))

    assert ids_of(files.page(project, Slice(), "user_data")) == [ids[1]]
    assert ids_of(files.page(project, Slice(), "assistants")) == [ids[2], ids[0]]


@settings(deadline=None, max_examples=30)
@given(
    size=st.integers(1, 9), limit=st.integers(1, 4), order=st.sampled_from(["asc", "desc"]),
    every=st.booleans(),
)  # fmt: skip
def test_who_deletes_what_each_page_holds_meets_all(
    files: Files, size: int, limit: int, order: Order, every: bool
) -> None:
    now = int(time.time())
    project, ids = fill(files, [now] * size)
    expected = ids if order == "asc" else ids[::-1]
    met: list[str] = []
    more = True
    while more:
        page = files.page(project, Slice(limit, order, after=met[-1] if met else ""))
        met += ids_of(page)
        more = page.has_more
        for id_ in ids_of(page) if every else met[-1:]:
            assert files.delete(id_)
    assert met == expected
