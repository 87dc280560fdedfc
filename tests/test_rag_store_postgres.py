"""What only PostgreSQL does: connections that break, transactions that collide, many writers."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from postgres import Cluster, cluster
from service_samples import add_file, at_once, check_lists_agree, count
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from store_samples import DIM, live, log_of, make_store, new_document, replay

from rag.errors import QuotaError, StorageBusy, StorageError, UnknownFile, UnknownStore
from rag.store.blobs import Blobs
from rag.store.catalog import Catalog
from rag.store.database import SCHEMA_VERSION, Database, retried
from rag.store.files import Files, NewFile
from rag.store.service_tables import FileRow, StoreFileRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT, StoreRow
from rag.store.uploads import Uploads
from rag.store.vector_stores import Maker, NewStore, VectorStores

pytestmark = pytest.mark.services


@pytest.fixture
def url(postgres: Cluster) -> str:
    return postgres.migrated_url()


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    opened = Database(url, timeout_s=2, pool=4)
    yield opened
    opened.close()


@dataclass(frozen=True)
class Own:
    """A server that a test may stop, and a database of it."""

    cluster: Cluster
    url: str


@pytest.fixture
def own() -> Iterator[Own]:
    with cluster(max_connections="12", superuser_reserved_connections="1") as running:
        yield Own(running, running.migrated_url())


def _end_all(postgres: Cluster) -> None:
    """Close every connection from the server's side."""
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )


# -- connections -----------------------------------------------------------------------------------


def test_a_connection_that_the_server_closed_is_replaced(postgres: Cluster, db: Database) -> None:
    store = make_store(db)
    store.commit([new_document("a")])

    for version in range(3):
        _end_all(postgres)
        time.sleep(1.1)
        assert "a" in store.hashes()
        with db.read() as one, db.read() as two:  # both are left in the pool
            assert [session.scalar(text("SELECT 1")) for session in (one, two)] == [1, 1]
        _end_all(postgres)
        time.sleep(1.1)
        store.commit([new_document("b", version)])


def test_a_connection_that_was_idle_is_as_good_as_new(db: Database) -> None:
    store = make_store(db)
    for version in range(2):
        time.sleep(1.1)
        store.commit([new_document("a", version)])
        time.sleep(1.1)
        assert len(store.hashes()) == 1
        with db.read() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        with db.write() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_an_idle_connection_that_timed_out_is_replaced(postgres: Cluster, url: str) -> None:
    database = url.rpartition("/")[2]
    postgres.sql(f"ALTER DATABASE {database} SET idle_session_timeout = '800ms'")
    db = Database(url)
    for _ in range(2):
        time.sleep(1.5)
        assert Catalog(db).stores() == []
    db.close()


def test_a_transaction_whose_connection_breaks_leaves_nothing(
    postgres: Cluster, db: Database
) -> None:
    store = make_store(db)

    def change() -> None:
        with db.write() as session:
            session.execute(text("UPDATE stores SET title = 'lost'"))
            _end_all(postgres)
            session.execute(text("UPDATE stores SET title = 'lost, too'"))

    with pytest.raises(
        StorageError, match=r"closed the connection|is not there|be reached"
    ) as caught:
        change()
    assert "\n" not in str(caught.value)
    assert store.commit([new_document("a")]) == {"a": "added"}
    with db.read() as session:
        assert session.scalar(select(StoreRow.title)) == "default"


def test_a_server_that_is_restarted_is_found_again(own: Own) -> None:
    db = Database(own.url)
    store = make_store(db)
    store.commit([new_document("a")])
    own.cluster.control("stop", "-m", "fast")
    for _ in range(2):
        with pytest.raises(StorageError, match="database postgresql"):
            store.hashes()
        with pytest.raises(StorageError, match="database postgresql") as caught:
            store.commit([new_document("b")])
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    own.cluster.control("start")
    assert store.commit([new_document("b")]) == {"b": "added"}
    assert set(store.hashes()) == {"a", "b"}
    db.close()


def test_when_all_connections_of_the_pool_are_taken(url: str) -> None:
    db = Database(url, timeout_s=0.2, pool=2)
    with db.read() as one, db.read() as two:
        assert [session.scalar(text("SELECT 1")) for session in (one, two)] == [1, 1]
        with pytest.raises(StorageBusy, match=r"All 2 connections .* database_pool"):
            Catalog(db).stores()
    assert Catalog(db).stores() == []
    db.close()


def test_when_the_server_takes_no_more_connections(own: Own) -> None:
    own.cluster.sql("CREATE ROLE guest LOGIN PASSWORD 'secret'")
    own.cluster.sql("GRANT pg_read_all_data TO guest")
    guest = own.url.replace("postgres:secret", "guest:secret")
    db = Database(guest, pool=40)
    with pytest.raises(StorageBusy, match=r"no more connections.* database_pool"):
        _hold(db, 40)
    assert Catalog(db).stores is not None
    db.close()


def _hold(db: Database, number: int) -> None:
    if number:
        with db.read() as session:
            session.scalar(text("SELECT 1"))
            _hold(db, number - 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (":secret@", ":wrong@", r"refuses the login: .*\. Check the user and the password"),
        ("/youju", "/nothere", r"does not exist\. Make it: createdb"),
        ("@127.0.0.1:", "@127.0.0.1:1", "cannot be reached: "),
    ],
)
def test_what_cannot_be_connected_to_is_said_in_one_line(
    url: str, old: str, new: str, said: str
) -> None:
    if new.endswith(":1"):
        url = url.rpartition(":")[0] + ":1/x"
    with pytest.raises(StorageError, match=said) as caught:
        Database(url.replace(old, new) if not new.endswith(":1") else url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_a_database_of_another_encoding_is_refused(postgres: Cluster) -> None:
    postgres.sql(
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    with pytest.raises(StorageError, match="has the encoding LATIN1; expected UTF8"):
        Database(postgres.url("latin"))


def test_another_program_s_database_is_refused(postgres: Cluster) -> None:
    url = postgres.new_url()
    postgres.sql("CREATE TABLE stores (x int)", url.rpartition("/")[2])
    with pytest.raises(StorageError, match=r"used by another program: .*stores.* already exists"):
        Database(url)


def test_a_user_who_may_not_make_tables(postgres: Cluster) -> None:
    url = postgres.new_url()
    postgres.sql("CREATE ROLE reader LOGIN PASSWORD 'secret'")
    with pytest.raises(StorageError, match=r"permission denied for schema public.* grant"):
        Database(url.replace("postgres:secret", "reader:secret"))


def test_a_server_that_takes_no_changes(postgres: Cluster, url: str) -> None:
    database = url.rpartition("/")[2]
    postgres.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    db = Database(url)
    assert Catalog(db).stores() == []
    with pytest.raises(StorageError, match="takes no changes"):
        make_store(db)
    db.close()


# -- transactions ----------------------------------------------------------------------------------


def test_a_reader_sees_one_moment(db: Database) -> None:
    store = make_store(db)
    store.commit([new_document("a")])
    with db.read() as session:
        before = session.scalar(text("SELECT count(*) FROM chunks"))
        store.commit([new_document("b")])
        assert session.scalar(text("SELECT count(*) FROM chunks")) == before == 2
    with db.read() as session:
        assert session.scalar(text("SELECT count(*) FROM chunks")) == 4


def test_a_lock_that_does_not_come_is_said_to_be_another_s(url: str, db: Database) -> None:
    store = make_store(db)
    hasty = Database(url, timeout_s=0.1)
    with db.write() as session:
        session.execute(text("SELECT 1 FROM stores FOR UPDATE"))
        with pytest.raises(StorageBusy, match="locked by another process"):
            Catalog(hasty).get("default").commit([new_document("a")])
        assert store.hashes() == {}, "readers go on"
    assert Catalog(hasty).get("default").commit([new_document("a")]) == {"a": "added"}
    hasty.close()


def test_a_deadlock_is_tried_again(db: Database) -> None:
    stores = [make_store(db, name) for name in "ab"]
    met = threading.Barrier(2)
    runs: list[str] = []

    @retried
    def change(first: str, second: str) -> None:
        runs.append(first)
        with db.write() as session:
            for place, store_id in enumerate((first, second)):
                session.execute(
                    text("UPDATE stores SET dim = dim + 1 WHERE id = :id"), {"id": store_id}
                )
                if not place and len(runs) <= 2:
                    met.wait(10)

    db.close()
    one, two = (store.id for store in stores)
    assert at_once([lambda: change(one, two), lambda: change(two, one)]) == [None, None]
    assert len(runs) == 3
    with db.read() as session:
        assert list(session.scalars(select(StoreRow.dim))) == [DIM + 2] * 2


def test_a_deadlock_that_does_not_end_is_busy(db: Database) -> None:
    @retried
    def collide() -> None:
        with db.write() as session:
            session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$"))

    with pytest.raises(StorageBusy, match="gave a change up"):
        collide()


def test_what_is_wrong_with_a_statement_is_not_taken_for_a_fault_of_the_storage(
    db: Database,
) -> None:
    with pytest.raises(ProgrammingError), db.read() as session:
        session.execute(text("SELECT nothing FROM nowhere"))
    with pytest.raises(IntegrityError), db.write() as session:  # to pg8000 no IntegrityError
        session.execute(
            text("INSERT INTO changes (store_id, seq, op, chunk_id) VALUES ('none', 1, 1, 1)")
        )
    with db.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == SCHEMA_VERSION


def test_the_log_is_seen_in_order_while_many_write(url: str, db: Database) -> None:
    make_store(db)
    done = threading.Event()

    def write(worker: int) -> None:
        other = Database(url, pool=2)
        mine = Catalog(other).get("default")
        for number in range(8):
            mine.commit([new_document(f"{worker}-{number}", chunks=3)])
        other.close()

    def follow() -> tuple[set[int], int]:
        store = Catalog(db).get("default")
        held: set[int] = set()
        seq, last = 0, False
        while not last:
            last = done.is_set()
            delta = store.delta(seq)
            held = (set() if delta.whole else held - set(delta.removed)) | set(delta.added)
            assert delta.seq >= seq
            seq = delta.seq
        return held, seq

    with ThreadPoolExecutor(6) as pool:
        followers = [pool.submit(follow) for _ in range(2)]
        writers = [pool.submit(write, worker) for worker in range(3)]
        for writer in writers:
            writer.result(60)
        done.set()
        store = Catalog(db).get("default")
        for follower in followers:
            held, seq = follower.result(60)
            assert held == live(db, store)
            assert seq == store.seq()
    log = log_of(db, store)
    assert len({number for number, _, _ in log}) == len(log) == 3 * 8 * 3
    assert replay(log, store.seq()) == live(db, store)


# -- many writers ----------------------------------------------------------------------------------


def test_a_file_that_is_deleted_while_it_is_put_into_a_store(db: Database, tmp_path: Path) -> None:
    files, listed = Files(db, Blobs(tmp_path)), StoreFiles(db)
    store = make_store(db)
    for number in range(12):
        file = add_file(files, b"%d" % number)
        deleted, put = at_once(
            [
                partial(files.delete, file.id),
                partial(listed.add, store.id, [Entry(file.id)]),
            ]
        )
        if deleted:
            assert isinstance(put, UnknownFile)
            assert listed.get(store.id, file.id) is None
        else:
            assert put is None
            assert listed.get(store.id, file.id) is not None


def test_the_same_files_put_in_at_once(db: Database, tmp_path: Path) -> None:
    files, listed = Files(db, Blobs(tmp_path)), StoreFiles(db)
    store = make_store(db)
    ids = [add_file(files, b"%d" % number).id for number in range(6)]
    ways = [ids, ids[::-1], ids[3:] + ids[:3], ids]

    done = at_once([partial(listed.add, store.id, [Entry(i) for i in way]) for way in ways])

    assert done == [None] * 4
    assert set(listed.all_ids(store.id)) == set(ids)


def test_stores_of_one_title_made_at_once(db: Database) -> None:
    stores = VectorStores(db)
    made = at_once(
        [
            lambda: stores.create(DEFAULT_PROJECT, NewStore(title="same"), Maker("e", 4, "c"))
            for _ in range(4)
        ]
    )
    assert all(isinstance(row, StoreRow) for row in made)
    assert [info.name for info in Catalog(db).stores()].count("same") == 1


def test_a_quota_holds_while_many_upload(db: Database, tmp_path: Path) -> None:
    files = Files(db, Blobs(tmp_path), quota=100)
    uploads = Uploads(db, files)
    new = NewFile(DEFAULT_PROJECT, "a", "assistants", "text/plain")

    made = at_once([lambda: uploads.create(new, 40) for _ in range(4)])

    assert sum(isinstance(one, QuotaError) for one in made) == 2


def test_a_store_that_is_deleted_while_it_is_written_leaves_nothing(url: str, db: Database) -> None:
    for number in range(6):
        store = make_store(db, f"s{number}")
        store.commit([new_document("a")])
        wrote, _ = at_once(
            [
                partial(store.commit, [new_document("a", 2), new_document("b")]),
                partial(Catalog(db).delete, f"s{number}"),
            ]
        )
        assert isinstance(wrote, UnknownStore | dict)
        assert live(db, store) == set()
        assert (count(db, FileRow), count(db, StoreFileRow)) == (0, 0)
    check_lists_agree(db)


def test_a_store_with_the_longest_life_can_expire(db: Database) -> None:
    stores = VectorStores(db)
    row = stores.create(DEFAULT_PROJECT, NewStore(expires_days=36_500), Maker("e", 4, "c"))
    assert stores.expired() == []
    stores.change(row.id, {"last_active_at": 0, "expires_days": 10_000})
    assert stores.expired() == [row.id]


def _open(url: str, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    Database(url).close()


def test_processes_that_start_at_once_make_the_schema_once(postgres: Cluster) -> None:
    url = postgres.new_url()
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    openers = [spawn.Process(target=_open, args=(url, start)) for _ in range(4)]
    for opener in openers:
        opener.start()
    time.sleep(2)
    start.set()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0] * 4
    database = url.rpartition("/")[2]
    assert postgres.sql("SELECT version_num FROM alembic_version", database) == [(SCHEMA_VERSION,)]
    assert postgres.sql("SELECT name FROM projects", database) == [("default",)]
