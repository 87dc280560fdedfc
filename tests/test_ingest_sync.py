"""A store follows a folder: what is added, replaced, moved, deleted, kept, and not even read."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_samples import check_lists_agree
from synced import LONG_AGO_NS, SyncBench

import ingest.pipeline
import ingest.sync
from ingest.discover import FoundFile, read_bytes
from ingest.folder_lock import folder_lock
from ingest.ignore import IGNORE_FILE
from ingest.job import ingest_paths, reindex_store
from ingest.sync import FolderGone, is_unchanged
from rag.errors import PathError, SyncRunning
from rag.store.sources import KnownFile
from rag.store.stamps import Stamp
from rag.store.store_files import StoreFiles


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[SyncBench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = SyncBench(tmp_path / "home", tmp_path / "folder")
    yield made
    check_lists_agree(made.rag.db)
    made.rag.db.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened."""
    names: list[str] = []

    def noting(found: FoundFile) -> bytes:
        names.append(found.name)
        return read_bytes(found)

    monkeypatch.setattr(ingest.pipeline, "read_bytes", noting)
    return names


def test_adds_changes_and_deletes_and_reads_nothing_else(
    bench: SyncBench, reads: list[str]
) -> None:
    for name in ("a.txt", "b/c.md", "d.txt"):
        bench.write(name, f"The {name} valve is blue.")
    report = bench.sync()
    assert report.added == ("a.txt", "d.txt", "b/c.md")
    reads.clear()
    report = bench.sync()
    assert (report.unchanged, report.did_something, reads) == (3, False, [])
    bench.write("a.txt", "The a.txt valve is grey now.")
    (bench.root / "d.txt").unlink()
    bench.write("e.txt", "New.")
    report = bench.sync()
    assert (report.added, report.changed, report.deleted) == (("e.txt",), ("a.txt",), ("d.txt",))
    assert report.unchanged == 1
    assert reads == ["a.txt", "e.txt"]
    assert bench.texts()["a.txt"] == "The a.txt valve is grey now."
    assert bench.found("grey") == {"words": {"a.txt"}, "meaning": {"a.txt"}}
    assert bench.found("zzz")["words"] == set()


def test_a_touched_file_is_read_once_and_not_parsed(bench: SyncBench, reads: list[str]) -> None:
    bench.write("a.txt", "Blue.")
    bench.sync()
    bench.touch("a.txt")
    bench.parser.parsed.clear()
    reads.clear()
    assert bench.sync().unchanged == bench.sync().unchanged == 1
    assert (reads, bench.parser.parsed) == (["a.txt"], [])


def test_a_file_changed_within_a_tick_of_its_last_look_is_seen(bench: SyncBench) -> None:
    path = bench.write("a.txt", "Valve 1.", recent=True)
    info = path.stat()
    bench.sync()
    path.write_text("Valve 2.")
    os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))
    assert bench.sync().changed == ("a.txt",)


def test_a_change_whose_time_was_set_back_is_seen(bench: SyncBench) -> None:
    path = bench.write("a.txt", "Valve 1.")
    info = path.stat()
    bench.sync()
    path.write_text("Valve 2.")
    os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))
    assert bench.sync().changed == ("a.txt",)


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("mtime", "seen", "now", "expected"),
    [
        (100, 200, 300, True),
        (199, 200, 300, False),  # just changed when it was read
        (250, 200, 300, False),  # a time to come
        (100, 200, 150, False),  # the clock was put back since
        (-100, 200, 300, True),
    ],
)
def test_what_is_not_read_again(mtime: int, seen: int, now: int, expected: bool) -> None:
    found = FoundFile(Path("/f/a.txt"), "a.txt", 7, mtime * SECOND, Path("/f"), 5)
    known = KnownFile(1, 7, Stamp(mtime * SECOND, 5, seen * SECOND))
    assert is_unchanged(known, found, now * SECOND) is expected
    assert not is_unchanged(KnownFile(1, 7, None), found, now * SECOND)
    assert not is_unchanged(KnownFile(1, 8, known.stamp), found, now * SECOND)


@pytest.mark.parametrize("year", [1960, 2100, 2400])
def test_times_far_off_are_no_trouble(bench: SyncBench, year: int) -> None:
    path = bench.write("a.txt", "Valve 1.")
    time_ns = (year - 1970) * 31_556_952 * SECOND
    os.utime(path, ns=(time_ns, time_ns))
    assert bench.sync().added == ("a.txt",)
    assert bench.sync().unchanged == 1
    path.write_text("Valve 2.")
    os.utime(path, ns=(time_ns, time_ns))
    assert bench.sync().changed == ("a.txt",)


# -- moves -----------------------------------------------------------------------------------------


def test_a_moved_file_keeps_everything_and_nothing_is_embedded(bench: SyncBench) -> None:
    for number in range(3):
        bench.write(f"in/{number}.txt", f"Valve {number}.")
    bench.sync()
    ids, chunks = bench.ids(), bench.chunks()
    StoreFiles(bench.rag.db).set_attributes(bench.store.id, ids["in/1.txt"][1], {"year": 2024})
    embedded = bench.embedder.embedded
    bench.parser.parsed.clear()
    (bench.root / "in").rename(bench.root / "out")
    (bench.root / "out/1.txt").rename(bench.root / "neu.txt")
    report = bench.sync()
    assert sorted(report.moved) == [
        ("in/0.txt", "out/0.txt"), ("in/1.txt", "neu.txt"), ("in/2.txt", "out/2.txt")
    ]  # fmt: skip
    assert (report.added, report.deleted, report.chunks) == ((), (), 0)
    assert bench.ids() == {
        "out/0.txt": ids["in/0.txt"], "neu.txt": ids["in/1.txt"], "out/2.txt": ids["in/2.txt"]
    }  # fmt: skip
    assert bench.chunks()["neu.txt"] == chunks["in/1.txt"]
    file = StoreFiles(bench.rag.db).get(bench.store.id, ids["in/1.txt"][1])
    assert file is not None
    assert file.attributes == {"year": 2024}
    assert (bench.embedder.embedded, bench.parser.parsed) == (embedded, [])
    assert bench.found("Valve")["words"] == {"out/0.txt", "neu.txt", "out/2.txt"}
    assert bench.sync().unchanged == 3


def test_a_rotation_is_followed_and_what_it_drops_is_deleted(bench: SyncBench) -> None:
    for name in "abc":
        bench.write(f"{name}.txt", f"This is {name}, the letter.")
    bench.sync()
    ids = bench.ids()
    (bench.root / "b.txt").rename(bench.root / "c.txt")
    (bench.root / "a.txt").rename(bench.root / "b.txt")
    report = bench.sync()
    assert sorted(report.moved) == [("a.txt", "b.txt"), ("b.txt", "c.txt")]
    assert report.deleted == ("c.txt",)
    assert bench.ids() == {"b.txt": ids["a.txt"], "c.txt": ids["b.txt"]}
    assert bench.texts()["c.txt"] == "This is b, the letter."


def test_two_files_that_change_places_have_each_other_s_text(bench: SyncBench) -> None:
    bench.write("a.txt", "First.")
    bench.write("b.txt", "Other.")
    bench.sync()
    (bench.root / "a.txt").rename(bench.root / "x")
    (bench.root / "b.txt").rename(bench.root / "a.txt")
    (bench.root / "x").rename(bench.root / "b.txt")
    bench.sync()
    assert bench.texts() == {"a.txt": "Other.", "b.txt": "First."}


def test_copies_are_documents_of_their_own(bench: SyncBench) -> None:
    for name in ("a.txt", "x/b.txt"):
        bench.write(name, "The same.")
    assert len(bench.sync().added) == 2
    ids = bench.ids()
    bench.write("c.txt", "The same.")
    assert bench.sync().added == ("c.txt",)  # a copy, not a move
    (bench.root / "a.txt").unlink()
    (bench.root / "x/b.txt").rename(bench.root / "b.txt")
    report = bench.sync()
    assert report.moved == (("x/b.txt", "b.txt"),)  # the one of the same name
    assert report.deleted == ("a.txt",)
    assert bench.ids()["b.txt"] == ids["x/b.txt"]


def test_a_file_of_another_format_is_parsed_anew(bench: SyncBench) -> None:
    bench.write("a.txt", "# Title\n\nText.")
    bench.write("b.txt", "Stays.")
    bench.sync()
    (bench.root / "a.txt").rename(bench.root / "a.md")
    report = bench.sync()
    assert (report.moved, report.added, report.deleted) == ((), ("a.md",), ("a.txt",))


def test_what_is_edited_on_the_way_is_not_a_move(bench: SyncBench) -> None:
    bench.write("a.txt", "Valve 1.")
    bench.write("b.txt", "Stays.")
    bench.sync()
    (bench.root / "a.txt").unlink()
    bench.write("c.txt", "Valve 2.")
    report = bench.sync()
    assert (report.moved, report.added, report.deleted) == ((), ("c.txt",), ("a.txt",))


# -- what stays ------------------------------------------------------------------------------------


def test_refused_files_keep_their_version_and_are_named(bench: SyncBench, reads: list[str]) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        bench.write(name, f"Valve {name}.")
    bench.sync()
    bench.write("a.txt", "")
    (bench.root / "b.txt").write_bytes(b"\x00\x01\x02" * 50)
    (bench.root / "c.txt").unlink()
    os.mkfifo(bench.root / "c.txt")
    syncer = bench.syncer()
    for _ in range(2):
        report = syncer.run()
        reasons = {item.name: item.reason for item in report.refused}
        assert reasons == {"a.txt": "empty", "b.txt": "not-text", "c.txt": "unreadable"}
        assert all("keeps the version it had" in item.message for item in report.refused)
        assert not report.did_something
        assert sorted(bench.texts()) == ["a.txt", "b.txt", "c.txt"]
    (bench.root / "c.txt").unlink()


def test_a_lasting_sync_does_not_parse_again_what_it_refused(bench: SyncBench) -> None:
    path = bench.write("a.txt", "x")
    path.write_bytes(b"\x00\x01\x02" * 50)
    bench.touch("a.txt")
    syncer = bench.syncer()
    first, again = syncer.run(), syncer.run()
    assert first.refused == again.refused != ()
    assert bench.parser.parsed == ["a.txt"]
    bench.write("a.txt", "Now text.")
    assert syncer.run().added == ("a.txt",)


def test_a_file_that_changes_while_it_is_read_is_taken_the_next_time(
    bench: SyncBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("a.txt", "Valve 1.")
    bench.sync()
    bench.write("a.txt", "Valve 22.")

    def writing(found: FoundFile) -> bytes:
        path.write_text("Valve 333.")
        return read_bytes(found)

    with monkeypatch.context() as patch:
        patch.setattr(ingest.pipeline, "read_bytes", writing)
        (item,) = bench.sync().refused
    assert item.reason == "changing"
    assert bench.texts() == {"a.txt": "Valve 1."}
    assert bench.sync().changed == ("a.txt",)


def test_a_folder_that_cannot_be_listed_keeps_its_documents(
    bench: SyncBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("x/y/a.txt", "Valve.")
    bench.write("b.txt", "Valve.")
    bench.sync()
    (bench.root / "x" / IGNORE_FILE).mkdir()
    (bench.root / "b.txt").unlink()
    report = bench.sync()
    (item,) = report.refused
    assert (item.name, item.reason) == ("x", "unreadable")
    assert "keeps" in item.message
    assert report.deleted == ("b.txt",)
    assert list(bench.texts()) == ["x/y/a.txt"]


def test_what_is_ignored_now_goes(bench: SyncBench) -> None:
    for name in ("a.txt", "x/b.txt", "c.md"):
        bench.write(name, f"Valve {name}.")
    bench.sync()
    (bench.root / IGNORE_FILE).write_text("x/\n*.md\n")
    assert bench.sync().deleted == ("c.md", "x/b.txt")
    (bench.root / IGNORE_FILE).unlink()
    assert bench.sync().added == ("c.md", "x/b.txt")


def test_what_came_from_elsewhere_stays(bench: SyncBench, tmp_path: Path) -> None:
    (tmp_path / "folder-2").mkdir()
    (tmp_path / "folder-2/a.txt").write_text("Elsewhere.")
    ingest_paths(bench.rag, "s", [tmp_path / "folder-2"])
    bench.write("a.txt", "Here.")
    bench.write("b.txt", "Here, too.")
    bench.sync()
    assert bench.texts() == {
        "a.txt": "Elsewhere.", "folder/a.txt": "Here.", "b.txt": "Here, too."
    }  # fmt: skip
    (bench.root / "a.txt").unlink()
    assert bench.sync().deleted == ("folder/a.txt",)
    assert bench.sync(tmp_path / "folder-2").unchanged == 1


def test_names_of_any_bytes_are_followed(bench: SyncBench) -> None:
    odd = os.fsdecode(b"\xff\xfe.txt")
    bench.write(odd, "Odd.")
    bench.write("b.txt", "Even.")
    assert bench.sync().added == ("\\xff\\xfe.txt", "b.txt") or len(bench.texts()) == 2
    assert bench.sync().unchanged == 2
    (bench.root / odd).rename(bench.root / os.fsdecode(b"\xfd.txt"))
    assert bench.sync().moved == (("\\xff\\xfe.txt", "\\xfd.txt"),)
    (bench.root / os.fsdecode(b"\xfd.txt")).unlink()
    assert bench.sync().deleted == ("\\xfd.txt",)


def test_ingest_and_reindex_leave_nothing_to_be_read_again(
    bench: SyncBench, reads: list[str]
) -> None:
    bench.write("a.txt", "Valve.")
    ingest_paths(bench.rag, "s", [bench.root])
    reads.clear()
    assert bench.sync().unchanged == 1
    reindex_store(bench.rag, "s")
    assert bench.sync().unchanged == 1
    assert reads == []


# -- what must not empty a store -------------------------------------------------------------------


def test_a_missing_folder_is_an_error(bench: SyncBench, tmp_path: Path) -> None:
    bench.write("a.txt", "Valve.")
    bench.sync()
    shutil.rmtree(bench.root)
    with pytest.raises(FolderGone, match="No such file"):
        bench.sync(yes_delete=True)
    bench.root.write_text("a file")
    with pytest.raises(FolderGone, match="is no folder"):
        bench.sync(yes_delete=True)
    assert list(bench.texts()) == ["a.txt"]


def test_an_unreadable_folder_is_an_error(
    bench: SyncBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a.txt", "Valve.")
    bench.sync()
    (bench.root / IGNORE_FILE).mkdir()
    with pytest.raises(PathError, match=IGNORE_FILE):
        bench.sync(yes_delete=True)
    (bench.root / IGNORE_FILE).rmdir()

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PathError, match="Permission denied"):
        bench.sync(yes_delete=True)
    assert list(bench.texts()) == ["a.txt"]


def test_an_empty_folder_keeps_everything_unless_told(bench: SyncBench) -> None:
    bench.write("a.txt", "Valve.")
    bench.sync()
    (bench.root / "a.txt").unlink()
    report = bench.sync()
    assert (report.held, report.deleted) == (("a.txt",), ())
    assert bench.sync(yes_delete=True).deleted == ("a.txt",)


def test_more_than_half_is_held_back_and_the_rest_is_done(bench: SyncBench) -> None:
    for number in range(41):
        bench.write(f"{number:02}.txt", f"Valve {number}.")
    bench.sync()
    for number in range(20):
        (bench.root / f"{number:02}.txt").unlink()
    assert len(bench.sync().deleted) == 20  # not more than half
    for number in range(20):
        bench.write(f"{number:02}.txt", f"Valve {number}.")
    bench.sync()
    for number in range(21):
        (bench.root / f"{number:02}.txt").unlink()
    bench.write("new.txt", "New.")
    report = bench.sync()
    assert (len(report.held), report.deleted, report.added) == (21, (), ("new.txt",))
    assert len(bench.sync(yes_delete=True).deleted) == 21


def test_parts_add_up_to_more_than_half(bench: SyncBench) -> None:
    for number in range(60):
        bench.write(f"{number % 3}/{number}.txt", f"Valve {number}.")
    syncer = bench.syncer()
    syncer.run()
    shutil.rmtree(bench.root / "0")
    assert len(syncer.run(["0"]).deleted) == 20
    shutil.rmtree(bench.root / "1")
    assert len(syncer.run(["1"]).held) == 20


def test_a_folder_that_vanishes_meanwhile_deletes_nothing(
    bench: SyncBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bench.write(f"{number}.txt", f"Valve {number}.")
    bench.sync()
    (bench.root / "0.txt").unlink()
    looked = ingest.pipeline.is_gone

    def vanishing(source: str) -> bool:
        shutil.rmtree(bench.root, ignore_errors=True)
        return looked(source)

    monkeypatch.setattr(ingest.sync, "is_gone", vanishing)
    with pytest.raises(FolderGone):
        bench.sync(yes_delete=True)
    assert len(bench.texts()) == 3


def test_a_folder_that_is_replaced_meanwhile_deletes_nothing(
    bench: SyncBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bench.write(f"{number}.txt", f"Valve {number}.")
    bench.sync()
    (bench.root / "0.txt").unlink()
    syncer = bench.syncer(yes_delete=True)
    monkeypatch.setattr(syncer, "identity", iter([(1, 1), (1, 2)]).__next__)
    with pytest.raises(FolderGone, match="replaced"):
        syncer.run()
    assert len(bench.texts()) == 3


def test_a_folder_that_vanishes_while_files_are_read(bench: SyncBench) -> None:
    bench.write("a.txt", "Valve.")
    bench.sync()
    bench.write("b.txt", "Valve b.")
    bench.write("c.txt", "Valve c.")
    bench.parser.before = lambda: shutil.rmtree(bench.root, ignore_errors=True)
    with pytest.raises(FolderGone):
        bench.sync()
    assert "a.txt" in bench.texts()


def test_a_file_that_vanishes_meanwhile_is_not_refused(bench: SyncBench) -> None:
    bench.write("a.txt", "Valve a.")
    path = bench.write("b.txt", "Valve b.")
    bench.parser.before = lambda: path.unlink(missing_ok=True)
    report = bench.sync()
    assert (report.added, report.refused) == (("a.txt",), ())


def test_the_second_sync_of_a_folder_says_so(bench: SyncBench, tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    with folder_lock(locks, "s", bench.root):
        with (
            pytest.raises(SyncRunning, match=f"process {os.getpid()}"),
            folder_lock(locks, "s", bench.root),
        ):
            pass
        with folder_lock(locks, "other", bench.root):
            pass
    with folder_lock(locks, "s", bench.root):
        pass


def test_the_times_of_these_tests_are_old() -> None:
    assert LONG_AGO_NS < time.time_ns() - 3600 * SECOND
