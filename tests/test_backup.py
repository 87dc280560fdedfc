"""Backups: written while others work, put back whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command import Run, assert_one_line
from service_samples import add_file
from test_backup_archive import blob, read, written
from upload_bench import FILLED as TEXTS
from upload_bench import Bench, filled_bench

from rag.backup.archive import DATABASE, MANIFEST
from rag.backup.restore import restore
from rag.backup.save import save
from rag.config import Settings
from rag.errors import BackupError, StorageError
from rag.store.database import SCHEMA_VERSION, Database
from rag.store.files import NewFile
from rag.store.hold import hold
from rag.store.tables import DEFAULT_PROJECT
from rag.store.uploads import Uploads


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = filled_bench(tmp_path / "home")
    yield made
    made.rag.db.close()


def saved(bench: Bench, tmp_path: Path, name: str = "a.tar.gz") -> Path:
    save(bench.rag.db, bench.blobs, tmp_path / name)
    return tmp_path / name


def asked(bench: Bench, query: str) -> list[Any]:
    """What a search finds, with ids and scores."""
    opened = bench.opened.get(bench.rag.catalog.get("s"))
    return [(hit.chunk, hit.score, hit.bm25, hit.cosine) for hit in opened.search(query)]


def test_a_restored_home_answers_the_same(bench: Bench, tmp_path: Path) -> None:
    file = saved(bench, tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    done = restore(file, Settings(home=tmp_path / "other"))
    assert (done.stores, done.documents, done.files, done.missing) == (1, 2, 3, ())
    other = Bench(tmp_path / "other")
    for query in ("Which colour has the pump?", "年假几天"):
        assert asked(other, query) == asked(bench, query) != []
        answers = [one.opened.get(one.rag.catalog.get("s")).ask(query) for one in (bench, other)]
        assert answers[0].text == answers[1].text
        assert answers[0].citations == answers[1].citations != ()
    with other.rag.db.read() as session:
        digests = session.connection().exec_driver_sql("SELECT sha256 FROM files").fetchall()
    assert len(digests) == 3
    for (digest,) in digests:
        assert other.blobs.read(digest) == bench.blobs.read(digest)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == [
        "blobs", "indexes", "youju.db", "youju.db-shm", "youju.db-wal", "youju.db.in-use",
    ]  # fmt: skip
    other.rag.db.close()


def test_indexes_that_know_a_lost_history_are_rebuilt(bench: Bench, tmp_path: Path) -> None:
    """Also those of a process that stays open, and of a folder that was not replaced."""
    file = saved(bench, tmp_path)
    store = bench.rag.catalog.get("s")
    lost = bench.put(store, "A zebra lives in hall nine.", "zebra.txt")
    bench.drain()
    bench.opened.get(store).refresh()
    assert lost in bench.found(store, "zebra")
    assert asked(bench, "zebra")
    caches = tmp_path / "caches"
    shutil.copytree(tmp_path / "home/indexes", caches)
    bench.rag.db.close()
    restore(file, bench.rag.settings, force=True)
    shutil.copytree(caches, tmp_path / "home/indexes")
    for again in (bench, Bench(tmp_path / "home")):
        store = again.rag.catalog.get("s")
        assert again.found(store, "zebra") == []
        new = again.put(store, "A tapir lives in hall ten.", "tapir.txt")
        again.drain()
        assert again.found(store, "tapir")[0] == new
        assert again.found(store, "zebra") == []
        ids = {hit[0].id for hit in asked(again, "zebra tapir pump 年假")}
        assert ids == set(store.delta(0).added) or len(ids) == again.rag.settings.top_k
        store.remove_file(new)


def test_every_index_is_rebuilt_even_one_that_is_up_to_date(bench: Bench, tmp_path: Path) -> None:
    store = bench.rag.catalog.get("s")
    number = store.seq()
    assert not store.delta(number).whole
    restore(saved(bench, tmp_path), Settings(home=tmp_path / "other"))
    other = Bench(tmp_path / "other")
    again = other.rag.catalog.get("s")
    assert again.seq() > number
    assert again.delta(number).whole
    assert not again.delta(again.seq()).whole  # and later changes are followed, not rebuilt
    assert again.delta(again.seq()).added == again.delta(again.seq()).removed == []
    other.rag.db.close()


def test_a_database_copied_back_by_hand_is_noticed(bench: Bench, tmp_path: Path) -> None:
    """A process that has the old file open goes on with the new one."""
    with closing(sqlite3.connect(tmp_path / "home/youju.db")) as rows:
        rows.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    store = bench.rag.catalog.get("s")
    bench.put(store, "A zebra lives in hall nine.", "zebra.txt")
    bench.drain()
    assert bench.found(store, "zebra")
    with closing(sqlite3.connect(tmp_path / "home/youju.db")) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.replace(tmp_path / "copy.db", tmp_path / "home/youju.db")
    assert len(bench.rag.catalog.get("s").documents()) == 2
    assert bench.found(store, "zebra") == []
    assert asked(bench, "pump")


def test_a_home_in_use_or_with_data_is_refused(bench: Bench, tmp_path: Path) -> None:
    file = saved(bench, tmp_path)
    before = asked(bench, "pump")
    for force in (False, True):
        with pytest.raises(BackupError, match="in use by another process"):
            restore(file, bench.rag.settings, force=force)
    bench.rag.db.close()
    with pytest.raises(BackupError, match="holds data already"):
        restore(file, bench.rag.settings)
    assert asked(bench, "pump") == before
    bench.rag.db.close()
    assert not list((tmp_path / "home").glob("restoring-*"))


def test_an_empty_database_is_no_data(bench: Bench, tmp_path: Path) -> None:
    file = saved(bench, tmp_path)
    Database(f"sqlite:///{tmp_path / 'new/youju.db'}").close()
    assert restore(file, Settings(home=tmp_path / "new")).aside is None


def test_what_was_there_is_moved_aside_and_works(bench: Bench, tmp_path: Path) -> None:
    file = saved(bench, tmp_path)
    other = Bench(tmp_path / "other")
    kept = other.put(other.store("old"), "An okapi sleeps here.", "okapi.txt")
    add_file(other.files, TEXTS["pump.txt"].encode(), name="same.txt")
    other.drain()
    other.rag.db.close()
    done = restore(file, other.rag.settings, force=True)
    assert [info.name for info in Bench(tmp_path / "other").rag.catalog.stores()] == ["s"]
    assert done.aside is not None
    old = Bench(Path(done.aside))
    store = old.rag.catalog.get("old")
    assert old.found(store, "okapi") == [kept]
    row = old.files.get(DEFAULT_PROJECT, kept)
    assert row is not None
    assert old.blobs.read(row.sha256) == b"An okapi sleeps here."
    assert not (tmp_path / "other/blobs" / row.sha256[:2] / row.sha256).exists()
    old.rag.db.close()


def test_a_damaged_database_is_moved_aside(bench: Bench, tmp_path: Path) -> None:
    file = saved(bench, tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "youju.db").write_bytes(b"no database" * 1000)
    (broken / "youju.db-wal").write_bytes(b"no log")
    with pytest.raises(BackupError, match="holds data"):
        restore(file, Settings(home=broken))
    done = restore(file, Settings(home=broken), force=True)
    assert done.aside is not None
    assert (Path(done.aside) / "youju.db").read_bytes() == b"no database" * 1000
    other = Bench(broken)
    assert asked(other, "pump")
    other.rag.db.close()


def test_what_is_acknowledged_before_is_in_it(bench: Bench, tmp_path: Path) -> None:
    """Others upload, ingest and delete meanwhile; every file in it has its bytes."""
    uploads = Uploads(bench.rag.db, bench.files)
    pending = uploads.create(NewFile(DEFAULT_PROJECT, "big.txt", "assistants", "text/plain"), 10)
    with bench.blobs.receive("part_00ab") as incoming:
        incoming.write(b"0123456789")
        uploads.add_part(pending, "part_00ab", incoming)
    stop = threading.Event()
    known: list[str] = []

    def work() -> None:
        mine = Bench(tmp_path / "home")
        picked = random.Random(1)
        while not stop.is_set():
            row = add_file(mine.files, picked.randbytes(2000), name=f"{len(known)}.bin")
            known.append(row.id)
            if picked.random() < 0.5:
                assert mine.files.delete(known.pop(picked.randrange(len(known))))
        mine.rag.db.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(5):
            before = set(known[: len(known) // 2])
            target = tmp_path / f"b{number}.tar.gz"
            done = save(bench.rag.db, Bench(tmp_path / "home").blobs, target)
            assert done.missing == ()
            deleted = before - set(known)
            result = restore(target, Settings(home=tmp_path / f"home{number}"))
            assert result.missing == ()
            other = Bench(tmp_path / f"home{number}")
            ids = {row for row in before if other.files.get(DEFAULT_PROJECT, row)}
            assert before - ids <= deleted
            again = Uploads(other.rag.db, other.files)
            found = again.get(DEFAULT_PROJECT, pending.row.id)
            assert found is not None
            file = again.complete(found, ["part_00ab"], None)
            assert other.blobs.read(file.sha256) == b"0123456789"
            other.rag.db.close()
    finally:
        stop.set()
        worker.join()


def test_what_is_deleted_while_it_is_written_is_in_it(bench: Bench, tmp_path: Path) -> None:
    rows = bench.files
    row = add_file(rows, b"going", name="going.bin")
    uploads = Uploads(bench.rag.db, rows)
    pending = uploads.create(NewFile(DEFAULT_PROJECT, "b.txt", "assistants", "text/plain"), 1)
    with bench.blobs.receive("part_00cd") as incoming:
        incoming.write(b"x")
        uploads.add_part(pending, "part_00cd", incoming)
    steps: list[str] = []

    def meanwhile(progress: Any) -> None:
        steps.append(progress.name)
        if len(steps) == 2:  # the database is copied, no blob has been read
            assert rows.delete(row.id)
            uploads.cancel(pending)

    done = save(bench.rag.db, bench.blobs, tmp_path / "a.tar.gz", progress=meanwhile)
    assert (done.missing, done.files) == ((), 4)
    names = [name for name, _ in read((tmp_path / "a.tar.gz").read_bytes())]
    assert steps[:2] == ["database", "database"]
    assert blob(b"going") in names
    assert rows.get(DEFAULT_PROJECT, row.id) is None
    assert "parts/part_00cd" in names


def test_bytes_that_are_damaged_are_named_and_left_out(bench: Bench, tmp_path: Path) -> None:
    row = add_file(bench.files, b"sound", name="x.bin")
    bench.blobs.path(row.sha256).write_bytes(b"rotten")
    done = save(bench.rag.db, bench.blobs, tmp_path / "a.tar.gz")
    assert done.missing == ("x.bin",)
    assert restore(tmp_path / "a.tar.gz", Settings(home=tmp_path / "o")).missing == ("x.bin",)


def test_only_a_backup_is_replaced(bench: Bench, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tar.gz"
    thesis.write_bytes(b"years of work")
    with pytest.raises(BackupError, match="is no backup"):
        save(bench.rag.db, bench.blobs, thesis)
    assert thesis.read_bytes() == b"years of work"
    file = saved(bench, tmp_path)
    first = file.read_bytes()
    bench.put(bench.rag.catalog.get("s"), "more", "more.txt")
    assert saved(bench, tmp_path).read_bytes() != first


# -- what is refused -----------------------------------------------------------------------------


def changed(file: Path, tmp_path: Path, **values: Any) -> Path:
    """The same backup with another manifest."""
    members = read(file.read_bytes())
    manifest = json.loads(members[0][1]) | values
    members[0] = (MANIFEST, json.dumps(manifest).encode())
    target = tmp_path / "changed.tar.gz"
    target.write_bytes(written(members, tmp_path))
    return target


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": 2}, "of format 2.*Upgrade youju"),
        ({"schema": "9999", "youju": "7.0"}, "schema 9999, written by youju '7.0'.*Upgrade youju"),
        ({"schema": "x"}, "not complete"),
        ({"format": None}, "cannot be read"),
        ({"counts": []}, "not complete"),
        ({"blobs": 0}, "more than its manifest says"),
        ({"database_bytes": 10, "blob_bytes": 0}, "more than its manifest says"),
        ({"database_sha256": "0" * 64}, "youju.db is not what was written"),
        ({"blob_bytes": -1}, "not complete"),
        ({"parts": True}, "not complete"),
    ],
)
def test_a_manifest_that_does_not_fit(
    bench: Bench, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    file = changed(saved(bench, tmp_path), tmp_path, **values)
    with pytest.raises(BackupError, match=words):
        restore(file, Settings(home=tmp_path / "new/home"))
    assert not (tmp_path / "new").exists()


def test_one_that_does_not_fit_on_the_disk(bench: Bench, tmp_path: Path) -> None:
    file = changed(saved(bench, tmp_path), tmp_path, blob_bytes=1 << 50)
    with pytest.raises(StorageError, match="MiB are free"):
        restore(file, Settings(home=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER t AFTER DELETE ON files BEGIN DELETE FROM stores; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE strange (x)",
        "CREATE VIRTUAL TABLE strange USING fts5(x)",
        "UPDATE alembic_version SET version_num = '0001'",
    ],
)
def test_a_database_with_more_than_tables_is_refused(
    bench: Bench, tmp_path: Path, sql: str
) -> None:
    import hashlib

    members = dict(read(saved(bench, tmp_path).read_bytes()))
    (tmp_path / "evil.db").write_bytes(members[DATABASE])
    with closing(sqlite3.connect(tmp_path / "evil.db")) as rows:
        rows.execute(sql)
        rows.commit()
    data = (tmp_path / "evil.db").read_bytes()
    manifest = json.loads(members[MANIFEST])
    manifest |= {"database_bytes": len(data), "database_sha256": hashlib.sha256(data).hexdigest()}
    members |= {DATABASE: data, MANIFEST: json.dumps(manifest).encode()}
    (tmp_path / "evil.tar.gz").write_bytes(written(list(members.items()), tmp_path))
    with pytest.raises(BackupError, match=r"none of ours does|not of schema"):
        restore(tmp_path / "evil.tar.gz", Settings(home=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_older_schema_is_migrated(tmp_path: Path) -> None:
    import hashlib

    from sqlalchemy import create_engine
    from test_rag_store_migration import migrate

    old = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        migrate(connection, up=True, to="0001")
        connection.exec_driver_sql("INSERT INTO stores VALUES ('vs_1','s','e',64,'c',0,1700)")
    engine.dispose()
    data = old.read_bytes()
    manifest = {
        "format": 1, "youju": "0.0.1", "schema": "0001", "created_at": 1, "origin": "sqlite",
        "database_bytes": len(data), "database_sha256": hashlib.sha256(data).hexdigest(),
        "parts": 0, "part_bytes": 0, "blobs": 0, "blob_bytes": 0, "counts": {"stores": 1},
    }  # fmt: skip
    members = [(MANIFEST, json.dumps(manifest).encode()), (DATABASE, data)]
    (tmp_path / "old.tar.gz").write_bytes(written(members, tmp_path))
    restore(tmp_path / "old.tar.gz", Settings(home=tmp_path / "new"))
    with closing(sqlite3.connect(tmp_path / "new/youju.db")) as rows:
        assert rows.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (SCHEMA_VERSION,)
        ]
        assert rows.execute("SELECT title FROM stores").fetchall() == [("s",)]


# -- the commands --------------------------------------------------------------------------------


def test_the_commands(bench: Bench, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "a.tar.gz"
    done = run("backup", str(file))
    assert done.status == 0
    assert done.out.startswith(f"Wrote {file}: 1 store, 2 documents, 3 files;")
    found = run("backup", str(file), "--json").json
    assert found.keys() == {"file", "bytes", "stores", "documents", "files", "missing", "seconds"}
    assert found["bytes"] == file.stat().st_size
    other = str(tmp_path / "other")
    done = run("restore", str(file), "--home", other)
    assert done.out.startswith("Restored 1 store, 2 documents and 3 files of 20")
    assert_one_line(run("restore", str(file), "--home", other), 2, "holds data", "--force")
    found = run("restore", str(file), "--home", other, "--force", "--json").json
    assert found.keys() == {
        "home", "created_at", "youju", "stores", "documents", "files", "missing", "aside",
    }  # fmt: skip
    assert Path(found["aside"]).is_dir()
    assert_one_line(run("restore", str(tmp_path / "absent")), 2, "no file")
    assert_one_line(run("backup", str(tmp_path / "absent/a")), 2, "is not there")
    assert_one_line(run("backup", ""), 2, "empty path")
    (tmp_path / "noise").write_bytes(gzip.compress(b"noise" * 1000))
    assert_one_line(run("restore", str(tmp_path / "noise"), "--home", other + "2"), 2, "backup")


def test_holds_keep_others_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    first, second = hold(path, alone=False), hold(path, alone=False)
    assert first
    assert second
    assert hold(path, alone=True, wait_s=0.05) is None
    first.close()
    second.close()
    second.close()
    alone = hold(path, alone=True)
    assert alone
    assert hold(path, alone=False) is None
    with alone:
        pass
    assert hold(path, alone=False)
