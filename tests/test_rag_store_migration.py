"""A database of the first schema, with documents, is brought up to date and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from service_samples import check_lists_agree, count
from sqlalchemy import Connection, create_engine, select, text

from ingest.job import ingest_paths, make_chunker
from rag.build import OpenStore, Rag
from rag.config import Settings
from rag.store.database import SCHEMA_VERSION, Database
from rag.store.pages import Slice
from rag.store.service_tables import FileRow, ProjectRow, StoreFileRow
from rag.store.tables import DEFAULT_PROJECT, DocumentRow
from rag.store.vector_stores import VectorStores
from rag.testing import FakeEmbedder

TEXTS = {"a.txt": "The pump needs oil every month.", "中.txt": "年假为十五天。"}


def migrate(connection: Connection, *, up: bool, to: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "rag.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    (command.upgrade if up else command.downgrade)(config, to)


def fill(connection: Connection, rag: Rag, folder: Path) -> None:
    """Two stores with the texts, and a hidden one, as the first version wrote them."""
    import hashlib

    for store, name in (("vs_1", "default"), ("vs_2", "other"), ("vs_3", "~default 00")):
        connection.execute(
            text("INSERT INTO stores VALUES (:id, :name, :embedder, 64, :chunker, :seq, 1700)"),
            {"id": store, "name": name, "embedder": rag.embedder.fingerprint,
             "chunker": make_chunker(rag).fingerprint, "seq": 0},
        )  # fmt: skip
        for number, (file, content) in enumerate(TEXTS.items(), start=1):
            document = connection.execute(
                text(
                    "INSERT INTO documents (store_id, name, source, root, sha256, size, media_type,"
                    " title, text, pages, sections, warnings, created_at) VALUES (:store, :name,"
                    " :source, :root, :sha256, :size, 'text/plain', '', :text, '[]', '[]', '[]',"
                    " :created) RETURNING id"
                ),
                {"store": store, "name": file, "source": str(folder / file), "root": str(folder),
                 "sha256": hashlib.sha256(content.encode()).hexdigest(),
                 "size": len(content.encode()), "text": content, "created": 1700 + number},
            ).scalar_one()  # fmt: skip
            vector = rag.embedder.encode_passages([content])[0].astype(np.float16).tobytes()
            chunk = connection.execute(
                text(
                    'INSERT INTO chunks (store_id, document_id, start, "end", context, text,'
                    " vector) VALUES (:store, :document, 0, :end, '', :text, :vector) RETURNING id"
                ),
                {"store": store, "document": document, "end": len(content), "text": content,
                 "vector": vector},
            ).scalar_one()  # fmt: skip
            connection.execute(
                text("INSERT INTO changes VALUES (:store, :seq, 1, :chunk)"),
                {"store": store, "seq": number, "chunk": chunk},
            )
        connection.execute(
            text("UPDATE stores SET seq = :seq WHERE id = :id"), {"seq": len(TEXTS), "id": store}
        )


@pytest.fixture
def rag(tmp_path: Path) -> Rag:
    """Over a database of the first schema."""
    rag = Rag(Settings(home=tmp_path / "home"))
    rag.embedder = cast(Any, FakeEmbedder())
    (tmp_path / "home").mkdir()
    engine = create_engine(rag.settings.url)
    with engine.begin() as connection:
        migrate(connection, up=True, to="0001")
        fill(connection, rag, tmp_path / "docs")
    engine.dispose()
    return rag


def test_documents_get_files_and_searches_still_work(rag: Rag, tmp_path: Path) -> None:
    (listed,) = [info for info in rag.catalog.stores() if info.name == "default"]
    assert listed.documents == 2
    store = rag.catalog.get("default")
    infos = store.documents()

    with rag.db.read() as session:
        files = {row.id: row for row in session.scalars(select(FileRow))}
        places = {(row.store_id, row.file_id): row for row in session.scalars(select(StoreFileRow))}
        projects = [(row.id, row.name) for row in session.scalars(select(ProjectRow))]
        hidden = session.scalars(
            select(DocumentRow.file_id).where(DocumentRow.store_id == "vs_3")
        ).all()
    assert projects == [(DEFAULT_PROJECT, "default")]
    assert (len(files), len(places), list(hidden)) == (4, 4, ["", ""])
    for info in infos:
        file, place = files[info.file_id], places[store.id, info.file_id]
        assert (file.filename, file.sha256, file.bytes) == (info.name, info.sha256, info.size)
        assert (file.kept, file.project_id, file.purpose) == (False, DEFAULT_PROJECT, "assistants")
        assert file.created_at == place.created_at == info.created_at
        assert (place.status, place.attributes, place.chunk_tokens) == ("completed", {}, None)
        assert (place.error_code, place.worker, place.worker_until) == (None, None, 0)
    rows = VectorStores(rag.db).page(DEFAULT_PROJECT, Slice(order="asc")).items
    assert [(row.id, row.title, row.last_active_at) for row in rows] == [
        ("vs_1", "default", 1700),
        ("vs_2", "other", 1700),
    ]
    assert [(row.details, row.description, row.expires_days) for row in rows] == [
        ({}, "", None)
    ] * 2
    for query, name in (("oil for the pump", "a.txt"), ("年假几天", "中.txt")):
        hit = OpenStore(rag, store).search(query)[0]
        assert hit.chunk.file == name
        assert hit.chunk.file_id in files


def test_the_next_ingest_knows_what_is_there(rag: Rag, tmp_path: Path) -> None:
    before = {info.name: info.file_id for info in rag.catalog.get("default").documents()}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text(TEXTS["a.txt"])
    (tmp_path / "docs/中.txt").write_text("年假为二十天。")
    (tmp_path / "docs/new.txt").write_text("A new file.")

    report = ingest_paths(rag, "default", [tmp_path / "docs"])

    assert report.outcomes == {"a.txt": "unchanged", "中.txt": "replaced", "new.txt": "added"}
    after = {info.name: info.file_id for info in rag.catalog.get("default").documents()}
    assert {name: after[name] for name in before} == before
    assert after["new.txt"].startswith("file-")
    rag.catalog.delete("~default 00")
    check_lists_agree(rag.db)
    rag.catalog.delete("default")
    rag.catalog.delete("other")
    assert (count(rag.db, FileRow), count(rag.db, StoreFileRow)) == (0, 0)


def test_it_can_be_taken_back_and_done_again(rag: Rag) -> None:
    assert rag.catalog.get("other").hashes()
    rag.db.close()
    engine = create_engine(rag.settings.url)
    with engine.begin() as connection:
        migrate(connection, up=False, to="0001")
        assert connection.execute(text("SELECT count(*) FROM documents")).scalar() == 6
        assert "file_id" not in connection.execute(text("SELECT * FROM documents")).keys()
    engine.dispose()

    db = Database(rag.settings.url)
    with db.read() as session:
        version = session.execute(text("SELECT version_num FROM alembic_version")).scalar()
    assert version == SCHEMA_VERSION
    assert (count(db, FileRow), count(db, StoreFileRow), count(db, DocumentRow)) == (4, 4, 6)
    db.close()
