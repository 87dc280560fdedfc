"""Deleted text is gone from every byte of the home folder."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from command import Run
from served import Served
from served_process import ROOT
from traces import gone_within, traces
from upload_bench import Bench

import rag.purge
from ingest.job import delete_files, delete_store, ingest_paths, reindex_store
from ingest.sync_job import sync_folder
from rag.build import OpenStore
from rag.index.lexical import REWRITE_SHARE
from rag.purge import Purger, purge
from rag.store.answers import NewResponse, Responses
from rag.store.blobs import Blobs
from rag.store.database import Database, mark_deleted
from rag.store.redact import REMOVED
from rag.store.tables import DEFAULT_PROJECT

SECRET = ["Qwyxzorp", "Vuplemdrak", "龘靐齉爩鱻"]
KEPT = "The pump in hall four is blue. 水泵在四号厅。"
MANY = 2 * REWRITE_SHARE
ENOUGH_S = 60.0  # it takes some 2 s; the machine may be busy


def secret_text() -> str:
    return f"# {SECRET[0]}\n\nThe {SECRET[1]} opens at noon. 密码是{SECRET[2]}。\n" * 3


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


@pytest.fixture
def folder(bench: Bench, tmp_path: Path) -> Path:
    """A folder with a secret file and another one, ingested into the store "s"."""
    found = tmp_path / "docs"
    found.mkdir()
    (found / "secret.md").write_text(secret_text())
    (found / "kept.md").write_text(KEPT)
    for number in range(MANY):  # so that tantivy does not rewrite the index by itself
        (found / f"{number}.md").write_text(f"Hall {number} is empty.")
    ingest_paths(bench.rag, "s", [found])
    assert traces(bench.rag.settings.home, SECRET).keys() == set(SECRET)
    return found


def indexed(bench: Bench) -> set[str]:
    """The secret words that the files of the indexes hold."""
    return set(traces(bench.rag.settings.indexes_folder, SECRET))


def _delete(bench: Bench, _folder: Path) -> None:
    delete_files(bench.rag, "s", ["secret.md"])


def _replace(bench: Bench, folder: Path) -> None:
    (folder / "secret.md").write_text("Something else.")
    ingest_paths(bench.rag, "s", [folder])


def _prune(bench: Bench, folder: Path) -> None:
    (folder / "secret.md").unlink()
    ingest_paths(bench.rag, "s", [folder], prune=True)


def _sync(bench: Bench, folder: Path) -> None:
    (folder / "secret.md").unlink()
    sync_folder(bench.rag, "s", folder, yes_delete=True)


def _all(bench: Bench, _folder: Path) -> None:
    delete_store(bench.rag, "s")


def _reindex_then_delete(bench: Bench, folder: Path) -> None:
    reindex_store(bench.rag, "s")
    _delete(bench, folder)


@pytest.mark.parametrize("act", [_delete, _replace, _prune, _sync, _all, _reindex_then_delete])
def test_no_trace_is_left(bench: Bench, folder: Path, act: Callable[[Bench, Path], None]) -> None:
    home = bench.rag.settings.home
    assert indexed(bench), "the indexes hold the words, or the test shows nothing"
    act(bench, folder)
    assert traces(home, SECRET) == {}
    assert bench.rag.db.deletions() == 0
    if act is not _all:
        assert len(bench.rag.catalog.get("s").documents()) in (MANY + 1, MANY + 2)
        found = OpenStore(bench.rag, bench.rag.catalog.get("s")).lexical.refresh()
        assert found.search(["pump"], 5)[0]


def test_what_a_killed_process_left_is_removed_by_the_next(bench: Bench, folder: Path) -> None:
    """Deleted in the database, and nothing more: as after a kill at that moment."""
    home = bench.rag.settings.home
    store = bench.rag.catalog.get("s")
    store.delete(["secret.md"])
    gone = bench.store("gone")
    bench.put(gone, secret_text(), "up.md")
    bench.drain()
    OpenStore(bench.rag, gone).refresh()
    bench.rag.catalog.delete("gone")
    with bench.rag.db.write() as session:
        session.connection().exec_driver_sql("DELETE FROM files WHERE kept")
    assert traces(home, SECRET).keys() == set(SECRET)
    assert bench.rag.db.deletions() > 0
    assert purge(bench.rag)
    assert traces(home, SECRET) == {}
    assert not bench.rag.index_folder(gone).exists()


def test_a_backup_that_runs_keeps_bytes_until_it_has_ended(bench: Bench) -> None:
    store = bench.store()
    file = bench.put(store, secret_text(), "up.md")
    bench.drain()
    home = bench.rag.settings.home
    with bench.blobs.pin():
        store.remove_file(file)
        assert bench.files.delete(file)
        assert not purge(bench.rag)
        (left,) = set(map(tuple, traces(home, SECRET).values()))
        assert len(left) == 1
        assert left[0].startswith("blobs/")
        assert bench.rag.db.deletions() > 0
    assert purge(bench.rag)
    assert traces(home, SECRET) == {}


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.rag.db.write() as session:
        mark_deleted(session)
    told: list[str] = []
    tries: list[int] = []

    def refused(*_: object) -> bool:
        tries.append(1)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(rag.purge, "LOOK_S", 0.01)
    monkeypatch.setattr(rag.purge, "RARELY_S", 0.01)
    monkeypatch.setattr(Blobs, "orphans", refused)
    purger = Purger(bench.rag, bench.opened.get, told.append)
    purger.start()
    end = time.monotonic() + ENOUGH_S
    while len(tries) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    purger.close()
    assert len(tries) >= 2
    assert "Permission denied" in told[0]


@pytest.mark.slow
def test_moved_rows_leave_no_copies(tmp_path: Path) -> None:
    """SQLite does not overwrite what it leaves when it moves rows to another page."""
    db = Database(f"sqlite:///{tmp_path / 'youju.db'}")
    picked = random.Random(1)
    alive: list[int] = []
    number = 0
    for _ in range(300):
        with db.write() as session:
            run = session.connection().exec_driver_sql
            if number == 0:
                run("CREATE TABLE t (id INTEGER PRIMARY KEY, context TEXT, text TEXT, vector BLOB)")
            for _ in range(picked.randint(1, 40)):
                number += 1
                text = f"WORD{number:06d}X " * picked.choice([1, 3, 10, 60, 300])
                vector = picked.randbytes(picked.choice([10, 768]))
                run("INSERT INTO t VALUES (?, ?, ?, ?)", (number, text[:11], text, vector))
                alive.append(number)
            for gone in picked.sample(alive, min(len(alive), picked.randint(0, 40))):
                run("DELETE FROM t WHERE id = ?", (gone,))
                alive.remove(gone)
            mark_deleted(session)
    deleted = [f"WORD{n:06d}X" for n in sorted(set(range(1, number + 1)) - set(alive))]
    with closing(sqlite3.connect(tmp_path / "youju.db")) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def left() -> list[str]:
        data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        return [word for word in deleted if word.encode() in data]

    assert left(), "SQLite overwrites all of it: then VACUUM is not needed any more"
    assert db.scrub(db.deletions())
    assert left() == []
    db.close()


@pytest.mark.slow
def test_a_reader_that_stays_puts_it_off(bench: Bench, folder: Path) -> None:
    home = bench.rag.settings.home
    with closing(sqlite3.connect(home / "youju.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM documents").fetchone()
        delete_files(bench.rag, "s", ["secret.md"])
        assert bench.rag.db.deletions() > 0
        assert "youju.db" in str(traces(home, SECRET))
        reader.execute("COMMIT")
    assert purge(bench.rag)
    assert traces(home, SECRET) == {}


# -- answers -------------------------------------------------------------------------------------


def _response(
    id_: str, answer: str, cites: list[str], *, passages: list[str] | None = None, before: str = ""
) -> NewResponse:
    notes = [{"type": "file_citation", "file_id": file} for file in cites]
    content = [{"type": "output_text", "text": answer, "annotations": notes}]
    results = [{"file_id": file, "text": f"zqxwv{file[5:]}"} for file in passages or cites]
    return NewResponse(
        id=id_, project_id=DEFAULT_PROJECT, previous_id=before or None, question="Which?",
        answer=answer, refused=False,
        passages=[{"file_id": file, "text": f"zqxwv{file[5:]}"} for file in passages or cites],
        turns=[["user", "Which?"], ["assistant", answer]],
        body={
            "output": [{"type": "file_search_call", "results": results},
                       {"type": "message", "content": content}],
            "youju": {"unsupported": [answer]},
        },
    )  # fmt: skip


def test_answers_from_deleted_files_are_redacted_and_others_are_not(bench: Bench) -> None:
    store = bench.store()
    gone = bench.put(store, secret_text(), "up.md")
    kept = bench.put(store, KEPT, "kept.md")
    bench.drain()
    answers = Responses(bench.rag.db)
    answers.add(_response("resp_1", f"It is {SECRET[0]}.", [gone], passages=[gone, kept]))
    later = _response("resp_2", "It is blue.", [kept], before="resp_1")
    turns = [["user", "Which?"], ["assistant", f"It is {SECRET[0]}."], *later.turns]
    answers.add(replace(later, turns=turns))
    answers.add(_response("resp_3", "Blue, too.", [kept], passages=[kept, gone]))
    answers.add(_response("resp_4", "Uncited.", [], passages=[gone]))
    store.remove_file(gone)
    bench.files.delete(gone)
    assert purge(bench.rag)
    assert traces(bench.rag.settings.home, SECRET) == {}
    found = traces(bench.rag.settings.home, [f"zqxwv{gone[5:]}", f"zqxwv{kept[5:]}"])
    assert found.keys() == {f"zqxwv{kept[5:]}"}

    def shown(id_: str) -> tuple[str, list[str]]:
        row = answers.get(DEFAULT_PROJECT, id_)
        assert row is not None
        (text,) = row.body["output"][1]["content"]
        assert text["text"] == row.answer == row.turns[-1][1]
        return row.answer, [passage["file_id"] for passage in row.passages]

    assert shown("resp_1") == (REMOVED, [kept])
    assert shown("resp_2") == ("It is blue.", [kept])
    assert shown("resp_3") == ("Blue, too.", [kept])
    assert shown("resp_4") == (REMOVED, [])
    second = answers.get(DEFAULT_PROJECT, "resp_2")
    assert second is not None
    assert second.turns[1] == ["assistant", REMOVED]


def test_a_file_that_another_store_holds_is_not_redacted(bench: Bench) -> None:
    first, second = bench.store("a"), bench.store("b")
    file = bench.put(first, KEPT, "kept.md")
    from rag.store.store_files import Entry

    bench.listed.add(second.id, [Entry(file)])
    bench.drain()
    answers = Responses(bench.rag.db)
    answers.add(_response("resp_1", "It is blue.", [file]))
    first.remove_file(file)
    row = answers.get(DEFAULT_PROJECT, "resp_1")
    assert row is not None
    assert row.answer == "It is blue."
    bench.rag.catalog.delete("b")
    row = answers.get(DEFAULT_PROJECT, "resp_1")
    assert row is not None
    assert row.answer == REMOVED


# -- the command line and a server ---------------------------------------------------------------


def test_the_command_line(home: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "secret.md").write_text(secret_text())
    (tmp_path / "kept.md").write_text(KEPT)
    assert run("ingest", str(tmp_path / "secret.md"), str(tmp_path / "kept.md")).status == 0
    assert traces(home, SECRET).keys() == set(SECRET)
    assert run("delete", "secret.md").status == 0
    assert traces(home, SECRET) == {}
    assert "blue" in run("ask", "Which colour has the pump in hall four?").out


def _uploaded(served: Served) -> tuple[str, str]:
    """Upload the secret, ask about it; return the ids of the store and the file."""
    client = served.client()
    store = client.vector_stores.create(name="purge")
    file = client.files.create(file=("up.md", secret_text().encode()), purpose="assistants")
    client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
    client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("kept.md", KEPT.encode())
    )
    return store.id, file.id


_SLOW = [pytest.param(how, marks=pytest.mark.slow) for how in ("file", "store and file")]


@pytest.mark.parametrize("how", [*_SLOW, "from the store, then the file"])
def test_a_live_server(served: Served, how: str) -> None:
    client = served.client()
    store, file = _uploaded(served)
    answer = client.responses.create(
        model=f"youju:{store}", input="When does the valve open at noon?",
        include=["file_search_call.results"],
    )  # fmt: skip
    assert traces(served.home, SECRET).keys() == set(SECRET)
    if how == "store and file":
        client.vector_stores.delete(store)
    elif how != "file":
        client.vector_stores.files.delete(file, vector_store_id=store)
    client.files.delete(file)
    if how == "file":
        found = client.vector_stores.search(store, query=f"{SECRET[0]} {SECRET[1]}").data
        assert file not in [hit.file_id for hit in found]
    assert gone_within(served.home, SECRET, ENOUGH_S) == {}
    assert client.responses.retrieve(answer.id).output_text == REMOVED


def test_a_deleted_response(served: Served) -> None:
    client = served.client()
    store, _ = _uploaded_kept(served)
    answer = client.responses.create(model=f"youju:{store}", input=f"Is the pump {SECRET[0]}?")
    assert SECRET[0] in traces(served.home, SECRET)
    client.responses.delete(answer.id)
    assert gone_within(served.home, SECRET, ENOUGH_S) == {}


def _uploaded_kept(served: Served) -> tuple[str, str]:
    client = served.client()
    store = client.vector_stores.create(name="kept")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("kept.md", KEPT.encode())
    )
    return store.id, file.id


@pytest.mark.slow
def test_deletion_reaches_every_process_within_two_seconds(served: Served) -> None:
    """The server sees what a command deletes, a command what the server deletes."""
    client = served.client()
    store, file = _uploaded(served)
    query = f"{SECRET[0]} {SECRET[1]}"
    assert client.vector_stores.search(store, query=query).data

    def command(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "youju", *arguments, "--store", store], cwd=ROOT,
            env={"YOUJU_HOME": str(served.home), "PATH": "", "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    command("delete", "up.md")
    begin = time.monotonic()
    found = client.vector_stores.search(store, query=query).data
    assert file not in [hit.file_id for hit in found]
    assert time.monotonic() - begin < 2
    other = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("again.md", secret_text().encode())
    )
    assert other.status == "completed", other.last_error
    assert SECRET[1] in command("search", query)
    client.vector_stores.files.delete(other.id, vector_store_id=store)
    assert SECRET[1] not in command("search", query)
    client.files.delete(other.id)
    client.files.delete(file)
    assert gone_within(served.home, SECRET, ENOUGH_S) == {}
