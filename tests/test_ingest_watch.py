"""`youju sync` as a process of its own: watched, killed, run twice at once."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Run, assert_one_line

from rag.build import build_rag
from rag.config import Settings

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and kill -9 are POSIX")
WAIT_S = 60.0
ROOT = Path(__file__).resolve().parents[1]


class Process:
    """A `youju sync FOLDER` process whose lines are read as they come."""

    def __init__(self, home: Path, folder: Path, *options: str, **settings: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "youju", "sync", str(folder), "--json", *options],
            env={**os.environ, "YOUJU_HOME": str(home), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for stream, put in (
            (self.process.stdout, self.lines.put),
            (self.process.stderr, self.errors.append),
        ):
            threading.Thread(target=self._read, args=(stream, put), daemon=True).start()

    def _read(self, stream: Any, put: Any) -> None:
        for line in stream:
            put(line)
        stream.close()

    def next(self) -> Any:
        try:
            return json.loads(self.lines.get(timeout=WAIT_S))
        except queue.Empty:
            raise AssertionError(f"nothing came; errors: {self.errors}") from None

    def told(self, word: str) -> bool:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if any(word in line for line in self.errors):
                return True
            time.sleep(0.05)
        return False

    def end(self, number: int = signal.SIGTERM) -> Any:
        """Stop it; return its last line."""
        self.process.send_signal(number)
        assert self.process.wait(WAIT_S) == 0, self.errors
        last = None
        while last is None or "totals" not in last:
            last = self.next()
        return last

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a.txt").write_text("The first valve is blue.")
    return made


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()


def names(home: Path) -> list[str]:
    rag = build_rag(Settings(home=home))
    found = [info.name for info in rag.catalog.get("default").documents()]
    rag.db.close()
    return found


def wait_for(home: Path, expected: list[str]) -> float:
    """Wait until a store holds these; return seconds."""
    begin = time.monotonic()
    while names(home) != expected:
        assert time.monotonic() - begin < WAIT_S, names(home)
        time.sleep(0.05)
    return time.monotonic() - begin


@posix
@pytest.mark.parametrize("options", [[], pytest.param(["--poll"], marks=pytest.mark.slow)])
def test_a_watch_follows_everything_that_happens(
    home: Path, folder: Path, processes: list[Process], options: list[str], run: Run
) -> None:
    watch = Process(home, folder, "--watch", *options)
    processes.append(watch)
    assert watch.next()["added"] == ["a.txt"]
    (folder / "sub").mkdir()
    (folder / "sub/b.txt").write_text("The second valve is grey.")
    assert watch.next()["added"] == ["sub/b.txt"]
    assert run("search", "grey valve", "--json").json["hits"][0]["file"] == "sub/b.txt"
    (folder / "sub").rename(folder / "neu")
    report = watch.next()
    assert report["moved"] == [{"from": "sub/b.txt", "to": "neu/b.txt"}]
    assert (report["chunks"], report["deleted"]) == (0, [])
    (folder / "a.txt").write_text("The first valve is green.")
    assert watch.next()["changed"] == ["a.txt"]
    (folder / "neu/b.txt").unlink()
    assert watch.next()["deleted"] == ["neu/b.txt"]
    (folder / "c.txt").write_text("A third.")
    assert watch.next()["added"] == ["c.txt"]
    (folder / ".youjuignore").write_text("c.*\n")
    assert watch.next()["deleted"] == ["c.txt"]
    last = watch.end(signal.SIGINT)
    totals = {key: last["totals"][key] for key in ("added", "changed", "moved", "deleted")}
    assert totals == {"added": 3, "changed": 1, "moved": 1, "deleted": 2}
    assert watch.errors == []
    assert run("search", "green valve", "--json").json["hits"][0]["file"] == "a.txt"


@pytest.mark.slow
@posix
def test_a_watch_outlives_its_folder(
    home: Path, folder: Path, tmp_path: Path, processes: list[Process]
) -> None:
    watch = Process(home, folder, "--watch")
    processes.append(watch)
    watch.next()
    folder.rename(tmp_path / "away")
    assert watch.told("No such file")
    assert names(home) == ["a.txt"]
    (tmp_path / "away").rename(folder)
    (folder / "b.txt").write_text("Back again.")
    assert watch.next()["added"] == ["b.txt"]
    (folder / "c.txt").write_text("Still watched.")
    assert watch.next()["added"] == ["c.txt"]
    shutil.rmtree(folder)
    assert watch.told("waiting for it")
    assert "totals" in watch.end()
    assert "a.txt" in names(home)


@pytest.mark.slow
@posix
def test_a_second_sync_says_so_and_a_killed_one_is_in_nobody_s_way(
    home: Path, folder: Path, processes: list[Process], run: Run
) -> None:
    watch = Process(home, folder, "--watch")
    processes.append(watch)
    watch.next()
    assert_one_line(run("sync", str(folder)), 2, "Another sync", f"process {watch.process.pid}")
    watch.kill()
    (folder / "b.txt").write_text("After the kill.")
    done = run("sync", str(folder), "--json").json
    assert (done["added"], done["unchanged"]) == (["b.txt"], 1)


@posix
@pytest.mark.timeout(400)
@pytest.mark.parametrize("wanted", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_sync_is_finished_by_the_next(
    home: Path, folder: Path, processes: list[Process], run: Run, wanted: int
) -> None:
    moments = random.Random(7)
    kills = 0
    for turn in range(5 * wanted):
        for number in range(24):
            if number % 3 != turn % 3:
                (folder / f"{number}.txt").write_text(f"Valve {number} opens in turn {turn}.")
            elif (folder / f"{number}.txt").exists():
                (folder / f"{number}.txt").replace(folder / f"{number + 1}.txt")
        process = Process(home, folder, "--yes-delete", YOUJU_COMMIT_CHUNKS="4")
        processes.append(process)
        try:
            process.process.wait(timeout=moments.uniform(1.0, 4.0))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        if kills == wanted:
            break
    assert kills == wanted
    assert run("sync", str(folder), "--yes-delete").status == 0
    rag = build_rag(Settings(home=home))
    store = rag.catalog.get("default")
    held = {info.name: store.document(info.name).text for info in store.documents()}
    assert held == {path.name: path.read_text() for path in folder.iterdir()}
    opened = rag.open("default")
    chunks = sum(info.chunks for info in store.documents())
    assert len(opened.dense.refresh()) == len(opened.lexical.refresh()) == chunks
    rag.db.close()


@posix
@pytest.mark.slow
def test_what_is_written_is_found_within_two_seconds(
    home: Path, folder: Path, processes: list[Process]
) -> None:
    watch = Process(home, folder, "--watch")
    processes.append(watch)
    watch.next()
    time.sleep(5)
    (folder / "b.txt").write_text("A second valve.")
    seconds = wait_for(home, ["a.txt", "b.txt"])
    assert seconds < 2


def test_what_cannot_be_synced_is_one_line(tmp_path: Path, folder: Path, run: Run) -> None:
    assert_one_line(run("sync", str(tmp_path / "none")), 2, "No such file")
    assert_one_line(run("sync", str(folder / "a.txt")), 2, "is no folder")
    assert_one_line(run("sync", ""), 2, "empty path")
    assert_one_line(run("sync", str(folder), "--poll"), 2, "--watch")


def test_refused_and_held_are_told_and_end_with_1(home: Path, folder: Path, run: Run) -> None:
    (folder / "bad.txt").write_bytes(b"\x00\x01" * 99)
    done = run("sync", str(folder))
    assert (done.status, "bad.txt" in done.err) == (1, True)
    assert "1 added" in done.out
    for path in folder.iterdir():
        path.unlink()
    done = run("sync", str(folder))
    assert (done.status, "--yes-delete" in done.err) == (1, True)
    done = run("sync", str(folder), "--yes-delete", "--json")
    assert (done.status, done.json["deleted"]) == (0, ["a.txt"])
    page = (ROOT / "docs/json.md").read_text("utf-8").split("## sync")[1]
    assert all(f'"{key}"' in page for key in done.json)
