"""What the server clears away by itself, and what it keeps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, update

from api.observing import Meters
from api.service import Service
from api.tracing import NoTracing
from api.upkeep import Upkeep
from rag.build import build_rag
from rag.config import Settings
from rag.store.answers import NewResponse
from rag.store.files import NewFile
from rag.store.service_tables import FileRow, ResponseRow, UploadRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import Maker, NewStore

DAY = 86_400


def service_in(home: Path, **settings: int) -> Service:
    rag = build_rag(Settings(home=home, **settings))  # type: ignore[arg-type]
    return Service(rag, Meters(CollectorRegistry()), NoTracing())


def keep(service: Service, response_id: str, days_ago: int) -> None:
    service.responses.add(
        NewResponse(response_id, DEFAULT_PROJECT, None, "?", "!", False, [], [], {})
    )
    moment = int(time.time()) - days_ago * DAY
    with service.rag.db.write() as session:
        session.execute(
            update(ResponseRow).where(ResponseRow.id == response_id).values(created_at=moment)
        )


def test_old_answers_go_unless_somebody_rated_them(served_home: Path) -> None:
    service = service_in(served_home)
    for name, days in (("resp_new", 29), ("resp_old", 31), ("resp_rated", 31)):
        keep(service, name, days)
    rated = service.responses.get(DEFAULT_PROJECT, "resp_rated")
    assert rated is not None
    service.responses.rate(rated, "up", None, None)
    Upkeep(service).run_once()
    left = [
        name
        for name in ("resp_new", "resp_old", "resp_rated")
        if service.responses.get(DEFAULT_PROJECT, name) is not None
    ]
    assert left == ["resp_new", "resp_rated"]


def test_for_ever_is_for_ever(served_home: Path) -> None:
    service = service_in(served_home, response_days=0)
    keep(service, "resp_old", 4000)
    Upkeep(service).run_once()
    assert service.responses.get(DEFAULT_PROJECT, "resp_old") is not None


def test_a_store_that_has_expired_is_emptied_once(
    served_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_in(served_home)
    with service.files.blobs.receive() as incoming:
        file = service.files.add(
            NewFile(DEFAULT_PROJECT, "a.txt", "user_data", "text/plain"), incoming
        )
    maker = Maker("e1", 4, "c1")
    for entries in ([Entry(file.id)], []):
        store = service.stores.create(DEFAULT_PROJECT, NewStore(expires_days=1), maker)
        if entries:
            service.store_files.add(store.id, entries)
        service.stores.change(store.id, {"last_active_at": 0})
    walked: list[str] = []
    all_ids = StoreFiles.all_ids

    def noted(files: StoreFiles, store_id: str) -> list[str]:
        walked.append(store_id)
        return all_ids(files, store_id)

    monkeypatch.setattr(StoreFiles, "all_ids", noted)
    upkeep = Upkeep(service)
    upkeep.run_once()
    upkeep.run_once()
    assert len(walked) == 1
    assert service.store_files.counts(walked)[walked[0]].total == 0


def test_what_crashes_left_behind_goes(served_home: Path) -> None:
    service = service_in(served_home)
    new = NewFile(DEFAULT_PROJECT, "a.txt", "user_data", "text/plain")
    blobs = service.files.blobs
    with blobs.receive() as incoming:
        incoming.write(b"kept")
        kept = service.files.add(new, incoming)
    with blobs.receive() as incoming, blobs.exclusive():
        incoming.write(b"left")
        left = incoming.finish()
        blobs.keep(incoming, left)
    blobs.receive("part_left").finish()
    hour_ago = time.time() - 3700
    for path in (blobs.path(kept.sha256), blobs.path(left), blobs.arrived("part_left")):
        os.utime(path, (hour_ago, hour_ago))
    Upkeep(service).run_once()
    assert blobs.read(kept.sha256) == b"kept"
    assert not blobs.path(left).exists()
    assert not blobs.arrived("part_left").exists()


def test_expired_files_and_old_uploads_go(served_home: Path) -> None:
    service = service_in(served_home)
    new = NewFile(DEFAULT_PROJECT, "a.txt", "user_data", "text/plain", 3600)
    with service.files.blobs.receive() as incoming:
        incoming.write(b"text")
        expired = service.files.add(new, incoming)
    kept = service.uploads.create(new, 4)
    old = service.uploads.create(new, 4)
    now = int(time.time())
    with service.rag.db.write() as session:
        session.execute(update(FileRow).values(expires_at=now - 1))
        session.execute(
            update(UploadRow).where(UploadRow.id == old.row.id).values(created_at=now - 2 * DAY)
        )
    Upkeep(service).run_once()
    assert service.files.get(DEFAULT_PROJECT, expired.id) is None
    assert not service.files.blobs.path(expired.sha256).exists()
    with service.rag.db.read() as session:
        assert session.scalar(select(func.count()).select_from(UploadRow)) == 1
    assert service.uploads.get(DEFAULT_PROJECT, kept.row.id) is not None
