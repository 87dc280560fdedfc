"""Durable jobs: DBOS set up for us, with what it remembers in a database of its own.

The job database (HOME/jobs.db, or a schema beside our tables in PostgreSQL) holds ids, counts,
durations and words that say why. What is to be done stands elsewhere: in the lists of the stores
and in HOME/jobs. So it may be deleted at any time; jobs then begin again from their spools.

DBOS is one to a process; nothing of it is imported before a job database is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.executors import Slot, held_if_dead
from ingest.file_job import Result
from rag.config import Settings
from rag.errors import ConfigError, YoujuError
from rag.store.database import translated
from rag.terminal import one_line

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus
    from sqlalchemy import Engine

VERSION = "1"
"""Of the jobs' steps. It stays when the program is upgraded, so that jobs go on; a job that then
finds other steps than it has done begins again."""

WORKER_APP = "youju-worker"
FOLDER_APP = "youju-ingest"
APPS = [WORKER_APP, FOLDER_APP]
"""Executors of one name run each other's jobs; all see the jobs of all."""

SCHEMA = "youju_jobs"
"""Where DBOS keeps its tables in PostgreSQL."""

LIVE = ["PENDING", "ENQUEUED", "DELAYED"]
"""What DBOS calls the state of jobs that are not over."""

_SQLITE_PRAGMAS = (
    "busy_timeout = 30000",
    "foreign_keys = ON",
    "journal_mode = WAL",
    "synchronous = NORMAL",  # a power cut may take the last steps back; they are done again
    "secure_delete = ON",
)

Body = Callable[..., Result]


class JobDatabase:
    """The open job database.

    Args:
        settings: Say where it is.

    Raises:
        StorageError: If it cannot be opened.
        ConfigError: If a package is missing for it.
    """

    def __init__(self, settings: Settings) -> None:
        self.path: Path | None = None
        self.url = _postgres_url(settings.database_url)
        self.engine: Engine
        if self.url is None:
            self.path = settings.home / "jobs.db"
            with translated(self.path):
                self.engine, self.url = _sqlite_engine(self.path)
        else:
            self.engine = _postgres_engine(self.url)

    @staticmethod
    def is_there(settings: Settings) -> bool:
        """Return whether there may be one; opening it makes one where there is none."""
        return bool(settings.database_url) or (settings.home / "jobs.db").exists()

    def exists(self) -> bool:
        """Return whether any job has ever been run here."""
        from sqlalchemy import inspect

        schema = None if self.path is not None else SCHEMA
        with translated(self.path or "of the jobs"):
            return inspect(self.engine).has_table("workflow_status", schema=schema)

    def client(self) -> DBOSClient:
        """Return what reads and changes jobs without running any; use it if `exists`."""
        from dbos import DBOSClient

        from ingest.job_json import JobJson

        return DBOSClient(
            system_database_engine=self.engine,
            dbos_system_schema=SCHEMA,
            serializer=JobJson(),
            retry_connection_errors=False,
        )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


class Executor:
    """Runs durable jobs in this process, under a slot that tells others that it lives.

    Use it as a context manager. Register bodies, then `launch`.

    Args:
        settings: Say where the job database is.
        app: Only executors of the same name take up each other's jobs.
        slot: Held by the caller. Jobs that were in hand under its name when a process died go on
            after `launch`.
    """

    def __init__(self, settings: Settings, app: str, slot: Slot) -> None:
        from dbos import DBOS

        from ingest.job_json import JobJson

        self._root = settings.jobs_folder
        self._slot = slot
        self._app = app
        self.version = f"{app}-{VERSION}"  # DBOS wants another for each app
        self.database = JobDatabase(settings)
        self._dbos = DBOS
        self._workflows: dict[str, Callable[..., Any]] = {}
        self._handler = _OneLine()
        logging.getLogger("dbos").addHandler(self._handler)  # before DBOS puts its own there
        logging.getLogger("dbos").propagate = False
        DBOS(
            config={
                "name": app,
                "system_database_url": self.database.url,
                "system_database_engine": self.database.engine,
                "dbos_system_schema": SCHEMA,
                "application_version": self.version,
                "executor_id": slot.name,
                "log_level": "WARNING",
                "use_listen_notify": False,
                "notification_listener_polling_interval_sec": 0.2,  # and the time it takes to end
                "enable_otlp": False,
                "serializer": JobJson(),
            }
        )

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self._dbos.destroy(destroy_registry=True)
        logging.getLogger("dbos").removeHandler(self._handler)
        self.database.close()

    def register(self, name: str, body: Body) -> None:
        """Say what jobs of a name do: called with the job's id and its arguments."""

        def workflow(*args: object) -> Result:
            job_id = str(self._dbos.workflow_id)
            try:
                return body(job_id, *args)
            except YoujuError as error:  # not even what went wrong could be written down
                return {"end": "interrupted", "reason": type(error).__name__}

        self._workflows[name] = self._dbos.workflow(name=name)(workflow)

    def launch(self) -> None:
        """Begin to run jobs.

        Raises:
            StorageError: If the job database cannot be used.
        """
        with translated(self.database.path or "of the jobs"):
            self._dbos.launch()

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """Run a step of the job that this thread is in, or return what it returned before."""
        return self._dbos.run_step({"name": name}, work)

    def start(self, job_id: str, name: str, *args: object) -> None:
        """Begin a job in a thread of its own."""
        from dbos import SetWorkflowID

        with SetWorkflowID(job_id):
            self._dbos.start_workflow(self._workflows[name], *args)

    def run(self, job_id: str, name: str, *args: object) -> Result:
        """Do a job in this thread."""
        from dbos import SetWorkflowID

        with SetWorkflowID(job_id):
            done: Result = self._workflows[name](*args)
        return done

    def next_id(self, base: str) -> str:
        """Return the id of the next attempt at a job."""
        known = self._dbos.list_workflows(
            workflow_id_prefix=f"{base}.",
            application_name=APPS,
            load_input=False,
            load_output=False,
        )
        last = max((attempt(one.workflow_id) for one in known), default=0)
        return f"{base}.{last + 1}"

    def live(self) -> list[WorkflowStatus]:
        """Return the jobs that are not over, whoever runs them."""
        return self._dbos.list_workflows(status=LIVE, application_name=APPS)

    def take_over(self) -> int:
        """Go on with jobs of dead executors of the same name; return how many."""
        taken = 0
        pending = [
            one
            for one in self._dbos.list_workflows(status="PENDING", load_output=False)
            if one.application_name == self._app
            and one.app_version == self.version
            and one.executor_id != self._slot.name
        ]
        for executor in {str(one.executor_id) for one in pending}:
            with held_if_dead(self._root, executor) as dead:
                if not dead:
                    continue
                still = self._dbos.list_workflows(
                    status="PENDING", executor_id=executor, load_input=False
                )
                for one in still:
                    self._dbos.resume_workflow(one.workflow_id)
                    taken += 1
        return taken

    def cancel(self, job_id: str) -> None:
        """Give a job up, wherever it runs: before its next step."""
        self._dbos.cancel_workflow(job_id)

    def forget(self, job_ids: list[str]) -> None:
        """Delete all that is remembered of jobs."""
        for first in range(0, len(job_ids), 500):
            self._dbos.delete_workflows(job_ids[first : first + 500])

    def over(self) -> list[WorkflowStatus]:
        """Return the jobs that are over."""
        ended = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
        return self._dbos.list_workflows(
            status=ended, application_name=APPS, load_input=False, load_output=False
        )


class _OneLine(logging.StreamHandler[Any]):
    """Writes what DBOS complains of without tracebacks, which may hold the text of documents."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        return f"jobs: {one_line(record.getMessage(), 300)}"


def base_of(job_id: str) -> str:
    """Return what all attempts at a job have in common: the store and file, or the request."""
    return job_id.rpartition(".")[0]


def attempt(job_id: str) -> int:
    """Return which attempt at a job an id names, from 1."""
    number = job_id.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def file_base(store_id: str, file_id: str) -> str:
    """Return what the ids of all jobs of a file of a store begin with."""
    return f"{store_id}.{file_id}"


def file_of(base: str) -> tuple[str, str] | None:
    """Return the store and the file of a job, None if it is of another kind."""
    store_id, dot, file_id = base.partition(".")
    return (store_id, file_id) if dot else None


def _sqlite_engine(path: Path) -> tuple[Engine, str]:
    from sqlalchemy import URL, create_engine, event

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    try:
        _look_into(path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise
        for suffix in ("", "-wal", "-shm"):  # nothing is lost with it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{suffix}")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, hide_parameters=True, pool_size=20)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"  # as DBOS wants it
        for pragma in _SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    return engine, url.render_as_string()


def _look_into(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _postgres_url(database_url: str) -> str | None:
    """Return the URL of the same database as psycopg takes it; None if that is SQLite's."""
    from sqlalchemy.engine import make_url

    if not database_url or make_url(database_url).get_backend_name() != "postgresql":
        return None
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


def _postgres_engine(url: str) -> Engine:
    from sqlalchemy import create_engine

    try:
        return create_engine(url, pool_pre_ping=True, pool_size=20, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Jobs need the Python package {error.name!r}, which is not installed.",
            do=f"pip install {error.name}",
        ) from None
