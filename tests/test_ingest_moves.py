"""Which document went where, on lists made up by hand and at random."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ingest.discover import FoundFile
from ingest.moves import pair_moves
from rag.store.sources import Origin

ROOT = Path("/f")


def origin(number: int, name: str, content: str) -> Origin:
    return Origin(number, name, f"/f/{name}", content, len(content), "text/plain")


def found(name: str, content: str) -> FoundFile:
    return FoundFile(ROOT / name, name, len(content), 0, ROOT)


def test_the_same_name_is_preferred_and_each_is_taken_once() -> None:
    gone = [origin(1, "a.txt", "x"), origin(2, "b.txt", "x"), origin(3, "c.txt", "x")]
    new = [found("q/c.txt", "x"), found("z.txt", "x")]
    done = pair_moves(gone, new, {}, lambda _: "x")
    assert {i: file.name for i, file in done.moves} == {3: "q/c.txt", 1: "z.txt"}
    assert (done.overwritten, done.gone) == ((), (2,))


def test_only_files_of_the_same_size_and_format_are_read() -> None:
    read: list[str] = []

    def digest(file: FoundFile) -> str | None:
        read.append(file.name)
        return None

    new = [found("b.txt", "xx"), found("c.md", "x"), found("d.txt", "y")]
    assert pair_moves([origin(1, "a.txt", "x")], new, {}, digest).gone == (1,)
    assert read == ["d.txt"]
    assert pair_moves([], new, {}, digest).moves == ()


def test_a_file_that_only_may_have_changed_is_nobody_s_new_place() -> None:
    stays = found("x/a.txt", "x")
    moved = found("b.txt", "x")
    changed = {stays: origin(2, "x/a.txt", "x")}
    done = pair_moves([origin(1, "a.txt", "x")], [moved], changed, lambda _: "x")
    assert done.moves == ((1, moved),)


NAMES = [f"{folder}{letter}.txt" for folder in ("", "x/") for letter in "abcde"]
FOLDERS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from("pqr"), max_size=8)


@given(before=FOLDERS, after=FOLDERS)
def test_whatever_happened_is_explained(before: dict[str, str], after: dict[str, str]) -> None:
    documents = {name: origin(i, name, text) for i, (name, text) in enumerate(before.items())}
    gone = [document for name, document in documents.items() if name not in after]
    files = {name: found(name, text) for name, text in after.items()}
    new = [file for name, file in files.items() if name not in before]
    changed = {
        files[name]: documents[name]
        for name in before.keys() & after
        if before[name] != after[name] or name.startswith("x/")  # those only may have changed
    }
    done = pair_moves(gone, new, changed, lambda file: after[file.name])

    moved = {i: file for i, file in done.moves}
    by_id = {document.id: document for document in documents.values()}
    assert len(moved) == len(done.moves) == len({file.path for file in moved.values()})
    assert all(by_id[i].sha256 == after[file.name] for i, file in done.moves)
    assert not moved.keys() & {*done.gone, *done.overwritten}
    # Every document is somewhere: where it was, where it moved to, or deleted.
    displaced = {changed[file].id for file in moved.values() if file in changed}
    assert {document.id for document in gone} | displaced == {
        *moved, *done.gone, *done.overwritten
    }  # fmt: skip
    assert set(done.overwritten) <= displaced
    # Nothing that was to be had was left: no lost document's bytes are in an unclaimed file.
    really = [file for file, document in changed.items() if document.sha256 != after[file.name]]
    assert not {file for file in changed if file not in really} & set(moved.values())
    free = {after[f.name] for f in (*new, *really) if f not in moved.values()}
    assert not free & {by_id[i].sha256 for i in (*done.gone, *done.overwritten)}
