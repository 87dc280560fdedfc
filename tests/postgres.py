"""PostgreSQL for tests: a throw-away cluster, as `pytest -m services` needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeAlias

import pytest
from sqlalchemy import create_engine, make_url, text

from rag.store.database import Database

NewDatabase: TypeAlias = Callable[[Path], str]
"""Makes an empty database, of SQLite in the folder given; returns its URL."""

CopyDatabase: TypeAlias = Callable[[str, str], str]
"""Copies a database that nobody is connected to over another, or to one of a new name."""

_DEBIAN = Path("/usr/lib/postgresql")
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
}


def binaries() -> Path:
    """The folder with initdb and pg_ctl, of the newest version; skips where there is none."""
    for found in [*sorted(_DEBIAN.glob("*/bin"), key=_version, reverse=True), _on_path()]:
        if found is not None and (found / "initdb").exists():
            return found
    pytest.skip("needs PostgreSQL: apt-get install postgresql")


def _version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0


def _on_path() -> Path | None:
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@dataclass
class Cluster:
    """A running server, which can be stopped and started."""

    bin: Path
    folder: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        return f"postgresql+pg8000://postgres:secret@127.0.0.1:{self.port}/{database}"

    def control(self, *arguments: str) -> None:
        """Run pg_ctl and wait for it."""
        log = str(self.folder / "log")
        command = ["pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-t", "60", "-w"]
        self.run(*command, *arguments)

    def run(self, program: str, *arguments: str) -> None:
        # pg_ctl refuses to run as root
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        subprocess.run(
            [*(prefix if os.geteuid() == 0 else []), str(self.bin / program), *arguments],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", timeout=120,
        )  # fmt: skip

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement by itself, outside of a transaction; return its rows."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.execute(text(statement))
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    def new_url(self, template: str = "template0") -> str:
        """Make an empty database; return its URL."""
        name = f"youju_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def copy(self, source: str, target: str) -> str:
        """Copy a database over another, given by its URL, or to one of a new name."""
        old, new = make_url(source).database, make_url(self.url(target.rpartition("/")[2])).database
        self.sql(f"DROP DATABASE IF EXISTS {new}")
        self.sql(f"CREATE DATABASE {new} TEMPLATE {old}")
        return self.url(str(new))

    def migrated_url(self) -> str:
        """Make a database of the newest schema with nothing in it; return its URL."""
        if not self.sql("SELECT 1 FROM pg_database WHERE datname = 'migrated'"):
            self.sql("CREATE DATABASE migrated TEMPLATE template0")
            Database(self.url("migrated")).close()
        return self.new_url("migrated")


@contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    """Run a server of one's own for the length of a `with` block.

    Its order of texts is that of English, as in PostgreSQL's container image, not that of bytes.
    """
    found = binaries()
    # not in a folder of pytest's: its user could not reach that as another than root
    with tempfile.TemporaryDirectory(prefix="youju-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        running = Cluster(found, folder, _free_port())
        password = folder / "password"
        password.write_text("secret")
        password.chmod(0o644)
        running.run(
            "initdb", "-D", str(folder / "data"), "-U", "postgres", "--pwfile", str(password),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync",
            "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US",
        )  # fmt: skip
        lines = {**_SETTINGS, "port": str(running.port), **settings}
        with (folder / "data/postgresql.conf").open("a") as config:
            config.writelines(f"{key} = '{value}'\n" for key, value in lines.items())
        running.control("start")
        try:
            yield running
        finally:
            if (folder / "data/postmaster.pid").exists():
                running.control("stop", "-m", "immediate")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
