"""What a database holds and how it fails: catalog, schema, many processes, every kind of fault."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from store_samples import live, log_of, make_store, new_document, replay

from rag.errors import ConfigError, StorageError, UnknownStore, UsageError
from rag.store.catalog import Catalog
from rag.store.changelog import NewDocument
from rag.store.corpus import Store
from rag.store.database import SCHEMA_VERSION, Database
from rag.store.tables import Base, ChunkRow

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'youju.db'}")
    yield opened
    opened.close()


@pytest.fixture
def store(db: Database) -> Store:
    return make_store(db)


# -- the catalog -----------------------------------------------------------------------------------


def test_stores_are_listed_with_their_counts(db: Database) -> None:
    make_store(db, "b").commit([new_document("x"), new_document("y")])
    make_store(db, "a", embedder="e9")
    make_store(db, "~hidden")

    listed = Catalog(db).stores()

    assert [(info.name, info.documents, info.chunks, info.embedder) for info in listed] == [
        ("a", 0, 0, "e9"),
        ("b", 2, 4, "e1"),
    ]


def test_create_finds_what_is_there(db: Database) -> None:
    first = make_store(db, "手册")

    assert make_store(db, "手册", embedder="other").id == first.id
    assert Catalog(db).get("手册").embedder == "e1"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x00", "\udcff", "x" * 101, "\x1b[31m"])
def test_names_that_cannot_be_shown_are_refused(db: Database, name: str) -> None:
    with pytest.raises(UsageError, match="not usable") as caught:
        make_store(db, name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnknownStore):
        Catalog(db).get(name)


def test_an_unknown_store_lists_the_known_ones(db: Database) -> None:
    with pytest.raises(UnknownStore, match="none yet"):
        Catalog(db).get("nope")
    make_store(db, "manuals")
    with pytest.raises(UnknownStore, match=r"No store named 'nope' \(stores: manuals\)"):
        Catalog(db).get("nope")


def test_deleting_a_store_takes_everything_and_nothing_else(db: Database) -> None:
    gone, kept = make_store(db, "gone"), make_store(db, "kept")
    gone.commit([new_document("a"), new_document("b")])
    kept.commit([new_document("a")])

    assert Catalog(db).delete("gone") == 2

    assert Catalog(db).find("gone") is None
    assert live(db, gone) == set()
    assert log_of(db, gone) == []
    assert len(live(db, kept)) == 2
    with pytest.raises(UnknownStore, match="has been deleted"):
        gone.commit([new_document("c")])
    with pytest.raises(UnknownStore, match="has been deleted"):
        gone.delta(0)
    with pytest.raises(UnknownStore, match="No store named 'gone'"):
        Catalog(db).delete("gone")


# -- the schema ------------------------------------------------------------------------------------


def test_models_are_what_the_migrations_make(db: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "rag.store:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]
    with db.read() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_row_ids_are_never_reused_by_the_migrated_tables(db: Database) -> None:
    with db.read() as session:
        made = session.connection().exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%' ORDER BY name"
        )
        assert [row[0] for row in made] == ["chunks", "documents"]


def test_sqlite_is_set_up_for_durability(db: Database) -> None:
    with db.read() as session:
        connection = session.connection()
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }


def test_a_newer_schema_is_refused(tmp_path: Path, db: Database) -> None:
    with db.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StorageError, match=r"has schema 9999.*Upgrade youju"):
        Database(f"sqlite:///{tmp_path / 'youju.db'}")


# -- many processes --------------------------------------------------------------------------------


def _ingest_worker(url: str, start: object, worker: int) -> None:
    start.wait()  # type: ignore[attr-defined]
    db = Database(url)
    store = make_store(db)
    for round_ in range(4):
        store.commit([new_document("shared", 1 + worker), new_document(f"common-{round_}", 1)])
        store.commit([new_document(f"own-{worker}-{round_}", 1)])
        if round_ % 2:
            store.delete([f"own-{worker}-{round_}"])
    db.close()


def test_processes_that_start_at_once_share_a_new_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'youju.db'}"
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    workers = [
        spawn.Process(target=_ingest_worker, args=(url, start, number)) for number in range(3)
    ]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]

    db = Database(url)
    store = Catalog(db).get("default")
    expected = {"shared", *(f"common-{number}" for number in range(4))} | {
        f"own-{worker}-{number}" for worker in range(3) for number in range(0, 4, 2)
    }
    assert Counter(info.name for info in store.documents()) == Counter(expected)
    assert {info.chunks for info in store.documents()} == {2}
    log = log_of(db, store)
    numbers = [seq for seq, _, _ in log]
    assert numbers == sorted(set(numbers))
    assert store.seq() == numbers[-1]
    assert max(Counter((op, key) for _, op, key in log).values()) == 1
    assert replay(log_of(db, store), store.seq()) == live(db, store) == set(store.delta(0).added)
    db.close()


def test_a_reader_sees_one_moment_and_does_not_wait_for_the_writer(
    db: Database, store: Store
) -> None:
    store.commit([new_document("a")])
    with db.read() as session:
        before = session.scalars(select(ChunkRow.id)).all()
        store.commit([new_document("a", 2)])
        with db.write() as writing:
            writing.connection().exec_driver_sql("DELETE FROM changes WHERE 0")
            assert session.scalars(select(ChunkRow.id)).all() == before
    assert store.document("a").text == "a v2"


def test_a_failed_write_leaves_no_trace(db: Database, store: Store) -> None:
    class Stop(Exception):
        pass

    def documents() -> Iterator[NewDocument]:
        yield new_document("a")
        raise Stop

    with pytest.raises(Stop):
        store.commit(documents())
    assert (store.hashes(), store.seq(), live(db, store)) == ({}, 0, set())


# -- faults ----------------------------------------------------------------------------------------


def test_a_locked_database_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "youju.db"
    db = Database(f"sqlite:///{path}", timeout_s=0.05)
    store = make_store(db)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StorageError) as caught:
            store.commit([new_document("a")])
        assert str(path) in str(caught.value)
        assert "locked by another process" in str(caught.value)
        assert "retry" in caught.value.do
        assert store.hashes() == {}, "readers go on"
    finally:
        other.rollback()
        other.close()
    assert store.commit([new_document("a")]) == {"a": "added"}
    db.close()


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + b"x" * 2000, b"hello, this is no database\n" * 99]
)
def test_another_kind_of_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "youju.db"
    path.write_bytes(content)

    with pytest.raises(StorageError, match="is not a SQLite database") as caught:
        Database(f"sqlite:///{path}")

    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_another_program_s_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "youju.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE stores (x)")
    other.commit()
    other.close()

    with pytest.raises(StorageError, match="stores already exists") as caught:
        Database(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)

    other = sqlite3.connect(path)
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("stores",)]
    other.close()


def test_a_damaged_database_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "youju.db"
    db = Database(f"sqlite:///{path}")
    make_store(db).commit([new_document(f"d{number}", chunks=20) for number in range(30)])
    db.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)

    with pytest.raises(StorageError, match="is damaged"):
        Catalog(Database(f"sqlite:///{path}")).get("default").hashes()


def test_a_vector_of_the_wrong_length_is_a_storage_error(db: Database, store: Store) -> None:
    store.commit([new_document("a")])
    with db.write() as session:
        session.connection().exec_driver_sql("UPDATE chunks SET vector = x'0000' WHERE start = 0")

    with pytest.raises(StorageError, match=r"youju reindex"):
        list(store.vectors(store.delta(0).added))


def test_a_folder_in_the_place_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "youju.db").mkdir()

    with pytest.raises(StorageError, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path / 'youju.db'}")


def test_a_file_in_the_place_of_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")

    with pytest.raises(StorageError, match=r"home: .*YOUJU_HOME"):
        Database(f"sqlite:///{tmp_path / 'home' / 'youju.db'}")


@pytest.mark.parametrize("url", ["", "nonsense", "nosuch://x/y", "sqlite+nosuch:///x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="database_url") as caught:
        Database(url)
    assert "\n" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises((ConfigError, StorageError)) as caught:
        Database("postgresql://me:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)


_WRITE = """
import os, resource, sys
import alembic.command
from rag.errors import YoujuError
from store_samples import make_store, new_document
from rag.store.database import Database
{before}
try:
    store = make_store(Database(sys.argv[1]))
    for number in range({count}):
        store.commit([new_document(f"d{{number}}", chunks=40)])
except YoujuError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def write_elsewhere(
    folder: Path, before: str = "", count: int = 1
) -> subprocess.CompletedProcess[str]:
    """Write to the database in `folder` from another process; its stderr tells what went wrong."""
    paths = [str(PROJECT), str(PROJECT / "tests")]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            _WRITE.format(before=before, count=count),
            f"sqlite:///{folder / 'youju.db'}",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def as_somebody(tmp_path: Path) -> str:
    """Root may write anywhere: let the other process become nobody, who can reach `tmp_path`."""
    if os.geteuid() != 0:
        return ""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    return "os.setuid(65534)"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions and limits of POSIX")
class TestAnotherProcess:
    def test_a_home_that_may_not_be_written(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        make_store(db := Database(f"sqlite:///{home / 'youju.db'}"))
        db.close()
        (home / "youju.db").chmod(0o444)
        home.chmod(0o555)
        try:
            ran = write_elsewhere(home, as_somebody(tmp_path))
        finally:
            home.chmod(0o755)

        assert ran.stderr.startswith(f"StorageError: The database {home / 'youju.db'} cannot be ")
        assert "YOUJU_HOME" in ran.stderr
        assert ran.stderr.count("\n") == 1
        assert ran.returncode == 1

    def test_a_home_that_may_not_be_made(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(0o555)

        ran = write_elsewhere(closed / "home", as_somebody(tmp_path))

        assert ran.stderr.startswith(f"StorageError: Cannot use {closed / 'home'}: Permission")
        assert "YOUJU_HOME" in ran.stderr
        assert ran.stderr.count("\n") == 1

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'youju.db'}"
        make_store(db := Database(url)).commit([new_document("kept")])

        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
        ran = write_elsewhere(tmp_path, limit, count=200)

        assert ran.stderr.startswith("StorageError: The database ")
        assert "space" in ran.stderr
        assert ran.stderr.count("\n") == 1
        store = Catalog(db).get("default")
        stored = {info.name: info.chunks for info in store.documents()}
        assert stored.pop("kept") == 2
        assert set(stored.values()) == {40}
        assert (
            set(store.delta(0).added) == replay(log_of(db, store), store.seq()) == live(db, store)
        )
        db.close()
