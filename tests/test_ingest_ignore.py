"""What a folder's ignore files and the defaults leave out."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.discover import FoundFile, RefusedFile
from ingest.ignore import DEFAULTS, IGNORE_FILE, MOST_BYTES, MOST_LINES, IgnoreRules
from ingest.scan import FolderScan, has_folder_links


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")


def taken(root: Path, part: str = "") -> list[str]:
    entries = list(FolderScan(root, 1000).entries(part))
    assert all(isinstance(entry, FoundFile) for entry in entries), entries
    return [entry.name for entry in entries]


def refused(root: Path) -> list[tuple[str, str, str]]:
    return [
        (entry.name, entry.error.reason, entry.error.message)
        for entry in FolderScan(root, 1000).entries()
        if isinstance(entry, RefusedFile)
    ]


def test_hidden_temporary_and_lock_files_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path, "a.txt", "b/c.md", "~$a.docx", ".a.txt", ".git/d.txt", "__MACOSX/e.txt",
        ".~lock.a.docx#", ".#a.txt", "f.txt~", "$RECYCLE.BIN/g.txt",
    )  # fmt: skip
    assert taken(tmp_path) == ["a.txt", "b/c.md"]


@pytest.mark.parametrize(
    "name", [".DS_Store", "~$x.docx", "x.swp", "x.part", "x.crdownload", "x~", "Thumbs.db"]
)
def test_the_defaults_know(name: str, tmp_path: Path) -> None:
    rules = IgnoreRules(tmp_path)
    assert rules.ignores(name, name, folder=False)
    assert not rules.ignores("a" + name.strip("~.$") + ".md", "a.md", folder=False)


def test_a_line_brings_back_what_the_defaults_leave_out(tmp_path: Path) -> None:
    write(tmp_path, ".notes/a.txt", ".notes/.b.txt", ".c/d.txt")
    (tmp_path / IGNORE_FILE).write_text("!.notes\n")
    assert taken(tmp_path) == [".notes/a.txt"]


def test_a_deeper_file_overrules_and_counts_from_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "x/a.txt", "x/b.txt", "x/y/b.txt", "out/a.txt", "x/out/a.txt")
    (tmp_path / IGNORE_FILE).write_text("# ours\n\na.txt\n/out/\n")
    (tmp_path / "x" / IGNORE_FILE).write_text("!a.txt\n/b.txt\n")
    assert taken(tmp_path) == ["x/a.txt", "x/out/a.txt", "x/y/b.txt"]
    assert taken(tmp_path, "x/out") == ["x/out/a.txt"]
    assert taken(tmp_path, "x/b.txt") == taken(tmp_path, "out/a.txt") == taken(tmp_path, "no") == []


def test_nothing_below_an_ignored_folder_comes_back(tmp_path: Path) -> None:
    write(tmp_path, "x/a.txt", "b.txt")
    (tmp_path / IGNORE_FILE).write_text("x/\n!x/a.txt\n")
    assert taken(tmp_path) == ["b.txt"]
    assert taken(tmp_path, "x/a.txt") == taken(tmp_path, "x") == []


def test_ignored_files_of_other_formats_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.xyz", "b.xyz", "c.tmp")
    (tmp_path / IGNORE_FILE).write_text("b.*\n")
    scan = FolderScan(tmp_path, 1000)
    assert list(scan.entries()) == []
    assert scan.skipped == {".xyz": 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x\n" * (MOST_LINES + 1), "lines"),
        (b"x" * (MOST_BYTES + 1), "bytes"),
        (b"*a*a*a*a*a*a.txt\n", "too many *"),
        (b"**/a/**/b/**/c\n", "too many *"),
    ],
)
def test_an_ignore_file_that_cannot_be_used_closes_its_folder(
    data: bytes, why: str, tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", "x/b.txt")
    (tmp_path / "x" / IGNORE_FILE).write_bytes(data)
    ((name, reason, message),) = refused(tmp_path)
    assert (name, reason) == ("x", "unreadable")
    assert why in message


def test_an_ignore_file_that_is_none_closes_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "x/b.txt", "y/b.txt", "z/b.txt", "patterns")
    (tmp_path / "x" / IGNORE_FILE).mkdir()
    os.mkfifo(tmp_path / "y" / IGNORE_FILE)
    (tmp_path / "z" / IGNORE_FILE).symlink_to(tmp_path / "patterns")
    assert [name for name, _, _ in refused(tmp_path)] == ["x", "y", "z"]


def test_the_worst_lines_that_are_let_through_are_quick(tmp_path: Path) -> None:
    (tmp_path / IGNORE_FILE).write_text("*a*b\n" * MOST_LINES)
    rules = IgnoreRules(tmp_path).entering("")
    begin = time.process_time()
    assert not rules.ignores("a" * 240 + ".txt", "a" * 240 + ".txt", folder=False)
    assert time.process_time() - begin < 10


def test_links_lead_where_ingest_lets_them(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.txt"
    write(root, "a.txt", ".hidden/b.txt", "sub/c.txt")
    outside.write_text("text")
    (root / "to-a.txt").symlink_to(root / "a.txt")
    (root / "to-b.txt").symlink_to(root / ".hidden/b.txt")
    (root / "again.txt").symlink_to(root / ".hidden/b.txt")
    (root / "out.txt").symlink_to(outside)
    (root / "nowhere.txt").symlink_to(root / "none")
    assert not has_folder_links(root)
    (root / "folder").symlink_to(root / "sub")
    assert has_folder_links(root)
    scan = FolderScan(root, 1000)
    found = {entry.name: entry for entry in scan.entries()}
    assert scan.links
    assert sorted(found) == ["a.txt", "again.txt", "nowhere.txt", "out.txt", "sub/c.txt"]
    assert found["again.txt"].path == root / ".hidden/b.txt"
    reasons = {
        name: entry.error.reason for name, entry in found.items() if isinstance(entry, RefusedFile)
    }
    assert reasons == {"nowhere.txt": "unreadable", "out.txt": "outside"}


PATTERNS = st.lists(
    st.sampled_from(
        ["a.md", "*.md", "x/", "/x", "!a.md", "!b.md", "!x", "x/y", "**/b.md", "x/**", "!x/a.md",
         "/a.md", "b?md", "[ab].md", "# a", "", "\\!a.md", "y/", "!y/", "a.md "]
    ),
    max_size=5,
)  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(top=PATTERNS, inner=PATTERNS)
def test_files_are_ignored_as_git_does(top: list[str], inner: list[str], tmp_path: Path) -> None:
    names = ["a.md", "b.md", "x/a.md", "x/b.md", "x/y/a.md", "y/b.md", "z/x/y/b.md"]
    root = tmp_path / "folder"
    shutil.rmtree(root, ignore_errors=True)
    write(root, *names)
    for base, lines in (("", top), ("x/", inner)):
        for name in (IGNORE_FILE, ".gitignore"):
            (root / base / name).write_text("".join(line + "\n" for line in lines))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    asked = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-o", "--exclude-standard", "-z", "*.md"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert sorted(taken(root)) == sorted(asked.stdout.split("\0")[:-1])


def test_the_defaults_are_names_and_not_paths() -> None:
    assert not any("/" in name for name in DEFAULTS)
