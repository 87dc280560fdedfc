import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.discover import Discovery, FoundFile, discover, media_type, printable, read_bytes
from ingest.scan import FolderScan
from rag.errors import DocumentRejected, PathError

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX file system")
LIMIT = 1000


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(found: Discovery) -> list[str]:
    return [file.name for file in found.files]


def reasons(found: Discovery) -> dict[str, str]:
    return {item.name: item.error.reason for item in found.rejected}


def test_walks_a_folder_sorted_and_passes_over_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.MD", "a/.secret.txt", ".git/x.txt", "c.xyz", "d", "a/y.htm"):
        write(tmp_path / name)
    found = discover([tmp_path], LIMIT)
    assert names(found) == ["a/y.htm", "a/z.MD", "b.txt"]
    assert found.skipped == {".xyz": 1, "": 1}
    assert found.roots == (tmp_path.resolve(),)
    assert found.files[0].size == 4
    assert read_bytes(found.files[0]) == b"text"


def test_a_named_file_of_another_format_is_rejected_with_the_supported_list(
    tmp_path: Path,
) -> None:
    found = discover([write(tmp_path / "a.exe"), write(tmp_path / "b.txt")], LIMIT)
    assert names(found) == ["b.txt"]
    assert reasons(found) == {"a.exe": "unsupported"}
    assert ".docx" in str(found.rejected[0].error)
    assert found.roots == ()


def test_same_names_get_the_folder_in_front_then_a_number(tmp_path: Path) -> None:
    for folder in ("one/x", "two/x", "three"):
        write(tmp_path / folder / "a.txt")
    write(tmp_path / "one/x/b.txt")
    found = discover([tmp_path / "one/x", tmp_path / "two/x", tmp_path / "three/a.txt"], LIMIT)
    assert names(found) == ["x/a.txt", "b.txt", "x/a (2).txt", "three/a.txt"]


def test_a_file_given_twice_is_listed_once(tmp_path: Path) -> None:
    file = write(tmp_path / "sub" / "a.txt")
    assert names(discover([tmp_path, file, file.parent], LIMIT)) == ["sub/a.txt"]
    assert names(discover([file, tmp_path], LIMIT)) == ["a.txt"]


def test_size_limits(tmp_path: Path) -> None:
    write(tmp_path / "big.txt", "x" * (LIMIT + 1))
    write(tmp_path / "fits.txt", "x" * LIMIT)
    write(tmp_path / "none.txt", "")
    found = discover([tmp_path], LIMIT)
    assert names(found) == ["fits.txt"]
    assert reasons(found) == {"big.txt": "too-large", "none.txt": "empty"}
    assert "1,001 bytes" in str(found.rejected[0].error)


@pytest.mark.parametrize("make", [lambda _: None, lambda path: write(path / "a.xyz")])
def test_nothing_to_ingest_is_a_path_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    with pytest.raises(PathError, match="No supported document"):
        discover([tmp_path], LIMIT)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(PathError, match=r"nowhere does not exist"):
        discover([tmp_path / "nowhere"], LIMIT)


@posix
def test_links_stay_inside_and_loops_are_harmless(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.txt")
    folder = tmp_path / "docs"
    write(folder / "real.txt")
    (folder / "zlink.txt").symlink_to(folder / "real.txt")
    (folder / "out.txt").symlink_to(outside)
    (folder / "broken.txt").symlink_to(folder / "gone.txt")
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "loop").symlink_to(folder)
    found = discover([folder], LIMIT)
    assert names(found) == ["real.txt"]
    assert reasons(found) == {
        "out.txt": "outside",
        "broken.txt": "unreadable",
        "self.txt": "unreadable",
    }


@posix
def test_pipes_and_folders_with_a_text_suffix_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    write(tmp_path / "folder.txt" / "a.txt")
    found = discover([tmp_path], LIMIT)
    assert names(found) == ["folder.txt/a.txt"]
    assert reasons(found) == {"pipe.txt": "unreadable"}


@posix
def test_undecodable_names_become_printable_and_unique(tmp_path: Path) -> None:
    for raw in (b"\xff.txt", rb"\xff.txt", b"bell\x07.txt"):
        try:
            (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), raw)))).write_text("x")
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
    found = discover([tmp_path], LIMIT)
    assert len(set(names(found))) == 3
    assert all(name.isprintable() for name in names(found))
    assert r"bell\u0007.txt" in names(found)
    for file in found.files:
        assert read_bytes(file) == b"x"


def test_a_file_that_changed_since_it_was_seen_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "before")
    found = discover([path], LIMIT).files[0]
    path.write_text("after, and longer", encoding="utf-8")
    with pytest.raises(DocumentRejected) as caught:
        read_bytes(found)
    assert caught.value.reason == "changing"
    path.write_text("before", encoding="utf-8")
    os.utime(path, ns=(0, found.mtime_ns + 1_000_000_000))
    with pytest.raises(DocumentRejected, match="Changed"):
        read_bytes(found)
    path.unlink()
    with pytest.raises(DocumentRejected) as caught:
        read_bytes(found)
    assert caught.value.reason == "unreadable"


@posix
def test_a_file_swapped_for_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", "secret")
    path = write(tmp_path / "a.txt")
    found = discover([path], LIMIT).files[0]
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(DocumentRejected) as caught:
        read_bytes(found)
    assert caught.value.reason == "outside"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DocumentRejected) as caught:
        read_bytes(replace(found, size=1))
    assert caught.value.reason == "outside"


def test_media_types_ignore_case() -> None:
    assert media_type("报销 制度（2024版）😀.DOCX") == media_type("a.docx")
    assert media_type("archive.rar") is None
    assert media_type(".txt") is None


@given(st.text(alphabet=st.characters()))
def test_printable_names_can_be_encoded_and_shown(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert printable(shown) == shown


@posix
@pytest.mark.parametrize("name", ["loop", "loop.txt", "loop.xyz"])
def test_a_link_that_leads_round_in_circles_harms_no_other_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.txt")
    (tmp_path / name).symlink_to(name)
    found = discover([tmp_path], LIMIT)
    assert names(found) == ["a.txt"]
    assert reasons(found) == ({name: "unreadable"} if name == "loop.txt" else {})
    entries = list(FolderScan(tmp_path.resolve(), LIMIT).entries())
    assert [entry.name for entry in entries if isinstance(entry, FoundFile)] == ["a.txt"]
