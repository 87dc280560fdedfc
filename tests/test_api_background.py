"""Threads beside the event loop: a fault of any kind is logged, told, and ends none of them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from wire import until

import api.job_child
import api.service
import api.upkeep
from api.faults import told
from api.observing import Meters
from api.service import Service
from api.tracing import NoTracing
from api.upkeep import Upkeep
from rag.build import build_rag
from rag.config import Settings
from rag.errors import StorageError
from rag.store.database import translated
from rag.store.files import Files
from rag.store.uploads import Uploads

SECRET = "zebrasecret"
FAULTS = [
    RuntimeError(SECRET),
    PoolTimeout(SECRET),
    IntegrityError(SECRET, {}, ValueError(SECRET)),
    MemoryError(SECRET),
]


class Noted:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _keep(self, event: str, **fields: Any) -> None:
        self.lines.append(f"{event} {fields}")

    error = warning = info = _keep


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    log = Noted()
    for module in (api.service, api.upkeep):
        monkeypatch.setattr(module, "log", log)
    return log


@pytest.fixture
def service(served_home: Path) -> Iterator[Service]:
    rag = build_rag(Settings(home=served_home, jobs_in_server=False))
    made = Service(rag, Meters(CollectorRegistry()), NoTracing())
    yield made
    made.close()
    rag.db.close()


class Broken:
    """A function that fails until it is mended, and counts."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error
        self.calls = 0

    def __call__(self, *_: Any) -> list[Any]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return []


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_upkeep_goes_on_after_any_fault(
    service: Service, noted: Noted, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    first, later = Broken(error), Broken(error)
    monkeypatch.setattr(api.upkeep, "EVERY_S", 0.01)
    monkeypatch.setattr(Files, "expired", first)
    monkeypatch.setattr(Uploads, "parts_in_use", later)
    upkeep = Upkeep(service)
    upkeep.start()
    until(lambda: first.calls >= 2 and later.calls >= 2)
    first.error = later.error = None
    until(lambda: first.calls >= 4)
    upkeep.close()
    assert any(type(error).__name__ in line for line in noted.lines)
    assert any("test_api_background.py:" in line for line in noted.lines)
    assert SECRET not in "".join(noted.lines)


def test_one_file_that_cannot_go_keeps_no_other(
    service: Service, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []

    def forget(_: Service, file_id: str) -> None:
        if file_id == "file-1":
            raise RuntimeError(SECRET)
        gone.append(file_id)

    monkeypatch.setattr(api.upkeep, "forget_file", forget)
    monkeypatch.setattr(Files, "expired", lambda _: [("p", "file-1"), ("p", "file-2")])
    Upkeep(service).run_once()
    assert gone == ["file-2"]


@pytest.mark.parametrize("what", ["embedder", "answerer"])
@pytest.mark.parametrize("error", FAULTS[:2], ids=lambda error: type(error).__name__)
def test_readiness_says_what_cannot_be_loaded_until_it_can(
    service: Service,
    noted: Noted,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    what: str,
) -> None:
    broken = Broken(error)
    monkeypatch.setattr(api.service, "_RETRY_S", 0.01, raising=False)
    with monkeypatch.context() as patch:
        if what == "embedder":
            patch.setattr(type(service.rag.embedder), "encode_queries", broken)
        else:
            patch.setattr(type(service.rag), "answerer", property(broken))
        service.start()
        until(lambda: broken.calls >= 2)
        waiting = service.not_ready()
    assert what in waiting["models"]
    assert type(error).__name__ in waiting["models"]
    assert SECRET not in waiting["models"] + "".join(noted.lines)
    assert any(type(error).__name__ in line for line in noted.lines)
    until(lambda: service.not_ready() == {}, 30)


def test_readiness_says_what_is_being_loaded(service: Service) -> None:
    assert "embedder" in service.not_ready()["models"]


@pytest.mark.parametrize("error", [*FAULTS[:2], StorageError("/srv/secret")], ids=str)
def test_readiness_says_that_the_database_fails(
    service: Service, noted: Noted, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(service.keys, "exist", Broken(error))
    said = service.not_ready()["database"]
    assert type(error).__name__ in said
    assert "secret" not in said


def test_a_pool_without_a_free_connection_is_a_busy_database() -> None:
    with pytest.raises(StorageError, match=r"youju\.db is busy"), translated("youju.db"):
        raise PoolTimeout("QueuePool limit of size 40 overflow 10 reached")


def test_a_server_that_ends_does_not_wait_for_a_model_that_cannot_be_loaded(
    service: Service, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(RuntimeError(SECRET))
    monkeypatch.setattr(type(service.rag.embedder), "encode_queries", broken)
    service.start()
    until(lambda: broken.calls == 1)
    begin = time.monotonic()
    service.close()
    assert time.monotonic() - begin < 1.5


def test_what_is_told_of_a_fault() -> None:
    assert (
        told(StorageError("The disk is full.", do="Free some.")) == "The disk is full. Free some."
    )
    assert told(ValueError(SECRET)) == "unexpected ValueError at an unknown place"
    with pytest.raises(KeyError) as caught:
        _ = dict[str, str]()[SECRET]
    assert told(caught.value).startswith("unexpected KeyError at test_api_background.py:")


@pytest.mark.parametrize("error", [RuntimeError(SECRET), StorageError("The disk is full.")])
def test_the_search_for_jobs_goes_on_after_any_fault(
    served_home: Path, monkeypatch: pytest.MonkeyPatch, noted: Noted, error: Exception
) -> None:
    monkeypatch.setattr(api.job_child, "log", noted)
    monkeypatch.setattr(api.job_child, "LOOK_S", 0.01)
    looked: list[int] = []

    def wanted() -> bool:
        looked.append(1)
        if len(looked) == 1:
            raise error
        return False

    child = api.job_child.JobChild(Settings(home=served_home), wanted, lambda *_: None)
    child.start()
    try:
        until(lambda: len(looked) > 2)
    finally:
        child.close()
    assert SECRET not in str(noted.lines)
    assert noted.lines


def test_the_search_for_jobs_goes_on_when_no_process_can_be_started(
    served_home: Path, monkeypatch: pytest.MonkeyPatch, noted: Noted
) -> None:
    monkeypatch.setattr(api.job_child, "log", noted)
    monkeypatch.setattr(api.job_child, "LOOK_S", 0.01)
    tried: list[int] = []

    def no_process(*_: object, **__: object) -> None:
        tried.append(1)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    child = api.job_child.JobChild(Settings(home=served_home), lambda: True, lambda *_: None)
    child.start()
    try:
        until(lambda: len(tried) > 1)
    finally:
        child.close()
    assert noted.lines


def test_the_process_that_ingests_gets_every_setting(served_home: Path) -> None:
    given = Settings(
        home=served_home,
        document_passwords=(SecretStr("geheim"), SecretStr("密")),
        generator_api_key=SecretStr("k"),
    )
    assert Settings(**json.loads(json.dumps(api.job_child._plain(given)))) == given
