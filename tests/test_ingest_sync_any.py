"""Any sequence of changes to a folder, and after each sync the store equals the folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from service_samples import check_lists_agree
from synced import SyncBench

from ingest.ignore import IGNORE_FILE

NAMES = st.sampled_from(
    [
        f"{folder}{name}"
        for folder in ("", "x/", "x/y/")
        for name in ("a.txt", "b.txt", "c.md", "中.txt")
    ]
)
FOLDERS = st.sampled_from(["x", "x/y", "z"])
WORDS = ["pump", "valve", "motor", "bearing", "seal"]
TEXTS = st.sampled_from([f"The {word} number {n}." for word in WORDS for n in range(3)] + [""])


class FolderChanges(RuleBasedStateMachine):
    """A folder that anything may happen to, and what the store must then hold."""

    empty_database: Path

    @initialize()
    def begin(self) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        home = Path(self._scratch.name) / "home"
        home.mkdir()
        shutil.copy(self.empty_database, home)
        self.bench = SyncBench(home, Path(self._scratch.name) / "folder")
        self.root = self.bench.root
        self.syncer = self.bench.syncer(yes_delete=True)
        self.expected: dict[str, str] = {}
        self.ignored = False

    def files(self) -> dict[str, Path]:
        return {
            path.relative_to(self.root).as_posix(): path
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name != IGNORE_FILE
        }

    @rule(name=NAMES, text=TEXTS, recent=st.booleans())
    def write(self, name: str, text: str, recent: bool) -> None:
        self.bench.write(name, text, recent=recent)

    @rule(data=st.data(), text=TEXTS)
    def change_and_set_the_time_back(self, data: st.DataObject, text: str) -> None:
        if files := self.files():
            path = files[data.draw(st.sampled_from(sorted(files)))]
            times = path.stat()
            path.write_text(text, "utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    @rule(data=st.data(), to=NAMES, copy=st.booleans())
    def move_or_copy(self, data: st.DataObject, to: str, copy: bool) -> None:
        if files := self.files():
            path = files[data.draw(st.sampled_from(sorted(files)))]
            place = self.root / to
            place.parent.mkdir(parents=True, exist_ok=True)
            if not copy:
                path.replace(place)
            elif place != path:
                shutil.copy2(path, place)

    @rule(source=FOLDERS, to=FOLDERS)
    def move_folder(self, source: str, to: str) -> None:
        old, new = self.root / source, self.root / to
        if old.is_dir() and new.parent.is_dir() and not new.exists() and old not in new.parents:
            old.rename(new)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if files := self.files():
            files[data.draw(st.sampled_from(sorted(files)))].unlink()

    @rule(data=st.data(), mode=st.sampled_from([0o600, 0o644]), recent=st.booleans())
    def touch_and_chmod(self, data: st.DataObject, mode: int, recent: bool) -> None:
        if files := self.files():
            name = data.draw(st.sampled_from(sorted(files)))
            files[name].chmod(mode)
            if recent:
                files[name].touch()
            else:
                self.bench.touch(name)

    @rule()
    def ignore_or_not(self) -> None:
        self.ignored = not self.ignored
        if self.ignored:
            (self.root / IGNORE_FILE).write_text("y/\nb.txt\n")
        else:
            (self.root / IGNORE_FILE).unlink()

    @rule(again=st.booleans())
    def sync(self, again: bool) -> None:
        if again:
            self.syncer = self.bench.syncer(yes_delete=True)
        report = self.syncer.run()
        expected, empty = {}, set()
        for name, path in self.files().items():
            if self.ignored and ("y" in Path(name).parts or path.name == "b.txt"):
                continue
            text = path.read_text("utf-8")
            if text:
                expected[name] = text
            else:
                empty.add(name)
                if name in self.expected:  # refused: what was there before stays
                    expected[name] = self.expected[name]
        assert {item.name for item in report.refused} == empty
        self.expected = expected
        self.check()
        second = self.syncer.run()
        assert not second.did_something
        assert second.unchanged == len(expected.keys() - empty)

    def check(self) -> None:
        """The store equals the folder: names, digests, texts, chunks, both indexes."""
        infos = {info.name: info for info in self.bench.store.documents()}
        assert {name: info.sha256 for name, info in infos.items()} == {
            name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.expected.items()
        }
        assert {n: info.source for n, info in infos.items()} == {
            name: str(self.root / name) for name in self.expected
        }
        chunks = self.bench.chunks()
        assert {name: [text for _, text, _ in held] for name, held in chunks.items()} == {
            name: [text] for name, text in self.expected.items()
        }
        for word in WORDS[:2]:
            holding = {name for name, text in self.expected.items() if word in text}
            assert self.bench.found(word) == {"words": holding, "meaning": holding}
        check_lists_agree(self.bench.rag.db)

    @precondition(lambda self: bool(getattr(self, "expected", None)))
    @rule()
    def documents_that_move_keep_their_ids(self) -> None:
        self.sync(again=False)
        before = self.bench.ids()
        if not before:
            return
        name = sorted(before)[0]
        path, place = self.root / name, self.root / f"moved-{len(before)}{Path(name).suffix}"
        if place.exists() or not path.stat().st_size:
            return
        path.rename(place)
        embedded = self.bench.embedder.embedded
        self.sync(again=True)
        assert self.bench.ids()[place.name] == before[name]
        assert self.bench.embedder.embedded == embedded + 2  # the queries of one check

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.rag.db.close()
            self._scratch.cleanup()


def run_machine(database: Path, examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (FolderChanges,), {"empty_database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_store_follows_the_folder(empty_database: Path) -> None:
    run_machine(empty_database, 6, 15)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_store_follows_the_folder_for_long(empty_database: Path) -> None:
    run_machine(empty_database, 200, 40)
