"""Fixtures shared by every test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Done, Run
from postgres import Cluster, CopyDatabase, NewDatabase, cluster
from served import Served, serving

import youju
from rag.store.database import Database

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's reaches a test; no test writes outside its folder."""
    for name in list(os.environ):
        if name.startswith("YOUJU_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("YOUJU_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_sets() -> Path:
    """The folder of public retrieval sets, kept beside the checkout where it is available."""
    return _shared("sets")


@pytest.fixture(scope="session")
def shared_docs() -> Path:
    """The folder of real and hostile documents, kept beside the checkout where available."""
    return _shared("docs")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the test data folder {name}/, which is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def converted_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packaged model as OpenVINO wants it, converted once for all tests.

    Processes that test side by side share it: whoever comes second waits until it is there.
    """
    from rag.embed.openvino import OpenVinoEmbedder

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    OpenVinoEmbedder(folder).prepare()
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database of the newest schema; a copy is made quicker than a new one."""
    path = tmp_path_factory.mktemp("empty") / "youju.db"
    Database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for all tests that need one."""
    with cluster() as running:
        yield running


@pytest.fixture(
    scope="session",
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)],
)
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Makes empty databases of the newest schema, of SQLite and of PostgreSQL in turn."""
    if request.param == "postgresql":
        postgres: Cluster = request.getfixturevalue("postgres")
        return lambda _folder: postgres.migrated_url()
    empty: Path = request.getfixturevalue("empty_database")
    return lambda folder: f"sqlite:///{shutil.copy(empty, folder)}"


@pytest.fixture
def database_url(tmp_path: Path, new_database: NewDatabase) -> str:
    """An empty database's URL; that of SQLite is youju.db in `tmp_path`."""
    return new_database(tmp_path)


@pytest.fixture
def copy_database(database_url: str, request: pytest.FixtureRequest) -> CopyDatabase:
    """Copies the databases of the kind that the test has."""
    if database_url.startswith("postgresql"):
        postgres: Cluster = request.getfixturevalue("postgres")
        return postgres.copy

    def copy(source: str, target: str) -> str:
        if "/" not in target:
            target = f"{source}-{target}"
        shutil.copy(source.removeprefix("sqlite:///"), target.removeprefix("sqlite:///"))
        return target

    return copy


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """An empty database."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def home(tmp_path: Path, converted_models: Path) -> Path:
    """An empty home folder that has its model converted already; YOUJU_HOME points to it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "models").symlink_to(converted_models, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def samples_home(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Path:
    """A home folder whose store "samples" holds the sample corpus; do not change it."""
    from ingest.job import ingest_paths
    from rag.build import build_rag
    from rag.config import Settings

    folder = tmp_path_factory.mktemp("samples")
    (folder / "models").symlink_to(converted_models, target_is_directory=True)
    rag = build_rag(Settings(home=folder))
    report = ingest_paths(rag, "samples", [PROJECT / "samples/corpus"])
    assert not report.rejected, report.rejected
    rag.db.close()
    return folder


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, converted_models: Path, new_database: NewDatabase
) -> Iterator[Served]:
    """A live server with no keys and nothing in it, shared by tests that name their own stores."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "models").symlink_to(converted_models, target_is_directory=True)
    # Few connections: what takes two at once would wait for itself.
    with serving(folder, database_url=new_database(folder), database_pool=2) as running:
        yield running


@pytest.fixture
def served_home(tmp_path: Path, converted_models: Path) -> Path:
    """A home folder for a server of one's own."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "models").symlink_to(converted_models, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def shared_glm() -> Path:
    """The folder with ChatGLM3's reference outputs, kept beside the checkout where available."""
    return _shared("chatglm3")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def _run(*arguments: str) -> Done:
        status = youju.run(list(arguments), debug=False)
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return _run


@pytest.fixture
def samples(samples_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands see the store "samples"."""
    monkeypatch.setenv("YOUJU_HOME", str(samples_home))
    monkeypatch.setenv("YOUJU_STORE", "samples")
    return samples_home
