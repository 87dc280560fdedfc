"""Backups that are killed, or run out of room, while they are written or put back."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Done, assert_one_line
from served_process import ROOT
from service_samples import add_file
from test_backup_archive import read
from upload_bench import Bench, filled_bench

from rag.backup.restore import restore
from rag.backup.save import save
from rag.config import Settings


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = filled_bench(tmp_path / "home")
    yield made
    made.rag.db.close()


def process(*arguments: str, home: Path, limit: int | None = None) -> subprocess.Popen[str]:
    code = "import sys, resource, signal, youju\n"
    if limit is not None:
        code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    code += "sys.argv = ['youju', *sys.argv[1:]]\nyouju.main()\n"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env={**os.environ, "YOUJU_HOME": str(home)},
    )  # fmt: skip


def finished(running: subprocess.Popen[str]) -> Done:
    out, err = running.communicate(timeout=120)
    return Done(running.returncode, out, err)


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_backup(bench: Bench, tmp_path: Path) -> None:
    add_file(bench.files, os.urandom(3_000_000), name="big.bin")
    (tmp_path / "out").mkdir()
    file = tmp_path / "out/a.tar.gz"
    for limit in (50_000, 2_000_000):  # while the database is copied, while it is packed
        done = finished(process("backup", str(file), home=tmp_path / "home", limit=limit))
        assert_one_line(done, 1)
        assert list(file.parent.iterdir()) == []
    save(bench.rag.db, bench.blobs, file)
    done = finished(process("restore", str(file), home=tmp_path / "new", limit=1_000_000))
    assert_one_line(done, 1)
    assert not (tmp_path / "new").exists()


def killed_at_random(arguments: list[str], home: Path, picked: random.Random) -> bool:
    """Run a command, kill it after a while; return whether it was killed before its end."""
    code = (
        "import sys, time, rag.backup.save, rag.backup.restore, youju\n"
        "print('ready', flush=True)\n"
        "sys.argv = ['youju', *sys.argv[1:]]\nyouju.main()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={**os.environ, "YOUJU_HOME": str(home)},
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(picked.uniform(0, 0.6))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


def state(home: Path) -> tuple[set[str], set[bytes]]:
    """Names of the stores of a home, and its files' bytes; every file has its own."""
    other = Bench(home)
    names = {info.name for info in other.rag.catalog.stores()}
    with other.rag.db.read() as session:
        found = session.connection().exec_driver_sql("SELECT sha256 FROM files WHERE kept")
        content = {other.blobs.read(sha) for (sha,) in found}
    other.rag.db.close()
    return names, content


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_a_kill_leaves_old_or_new(bench: Bench, tmp_path: Path, rounds: int) -> None:
    picked = random.Random(rounds)
    for _ in range(40):
        add_file(bench.files, picked.randbytes(20_000), name="x.bin")
    (tmp_path / "out").mkdir()
    file = tmp_path / "out/a.tar.gz"
    save(bench.rag.db, bench.blobs, file)
    before = file.read_bytes()
    new = state(tmp_path / "home")
    other = Bench(tmp_path / "other")
    other.put(other.store("old"), "An okapi sleeps here.", "okapi.txt")
    other.rag.db.close()
    old = state(tmp_path / "other")
    for _ in range(rounds):
        killed_at_random(["backup", str(file)], tmp_path / "home", picked)
        read(file.read_bytes())
        arguments = ["restore", str(file), "--force"]
        killed_at_random(arguments, tmp_path / "other", picked)
        assert state(tmp_path / "other") in (old, new)
        for left in (tmp_path / "other").glob("before-restore-*"):
            assert state(left) in (old, new)
    file.write_bytes(before)
    save(bench.rag.db, bench.blobs, file)
    assert [path.name for path in file.parent.iterdir()] == ["a.tar.gz"]
    restore(file, Settings(home=tmp_path / "other"), force=True)
    assert state(tmp_path / "other") == new
    assert not list((tmp_path / "other").glob("restoring-*"))
