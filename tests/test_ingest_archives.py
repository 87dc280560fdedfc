"""ZIP, TAR and gzip: what is in them is found, what is hostile in them ends quickly."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping

import pytest
from containers import labels, mail, read, refusal, tarred, tgz, zip_link, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

import ingest.members
from ingest.allowance import MAX_DEPTH, Allowance
from ingest.parse import parse
from rag.errors import DocumentRejected
from rag.schema import Document

MARKDOWN = "# Leave\n\nTwelve days.\n"


def test_members_follow_each_other_and_begin_the_section_paths() -> None:
    document = read(zipped({"a/leave.md": MARKDOWN, "b.txt": "No heading here."}), "x.zip")
    assert document.text == f"{MARKDOWN}\n\nNo heading here."
    assert labels(document) == ["a/leave.md > Leave", "b.txt"]
    second = document.sections[1]
    assert document.text[second.start : second.end] == "No heading here."
    assert document.media_type == "application/zip"
    assert document.pages == ()


@pytest.mark.parametrize("suffix", ["tar", "tgz", "tar.gz"])
def test_tar_archives_are_read_like_zip_archives(suffix: str) -> None:
    files = {"leave.md": MARKDOWN, "sub/b.txt": "B"}
    data = tarred(files) if suffix == "tar" else tgz(files)
    document = read(data, f"x.{suffix}")
    assert labels(document) == ["leave.md > Leave", "sub/b.txt"]


def test_a_single_gzip_file_is_its_content() -> None:
    named = io.BytesIO()
    with gzip.GzipFile("leave.md", "wb", fileobj=named, mtime=0) as packed:
        packed.write(MARKDOWN.encode())
    assert labels(read(named.getvalue(), "x.gz")) == ["leave.md > Leave"]
    assert read(gzip.compress(b"only text"), "notes.txt.gz").text == "only text"
    assert refusal(gzip.compress(b"text" * 99)[:-20], "x.gz").reason == "damaged"


def test_unreadable_members_are_told_and_the_others_go_in() -> None:
    files: dict[str, bytes | str] = {
        "good.txt": "Good.",
        "bad.pdf": b"%PDF-1.4 no",
        "prog.exe": b"MZ",
        "none.txt": b"",
    }
    document = read(zipped(files), "x.zip")
    assert document.text == "Good."
    told = "\n".join(document.warnings)
    assert "bad.pdf: The PDF is damaged" in told
    assert "prog.exe: Format not supported" in told
    assert "none.txt: The file is empty" in told


def test_an_archive_without_a_readable_member_is_refused_with_reasons() -> None:
    error = refusal(zipped({"bad.pdf": b"%PDF-1.4 no", "x.exe": b"MZ"}), "x.zip")
    assert error.reason == "damaged"
    assert "bad.pdf: The PDF is damaged" in str(error)
    assert "x.exe: Format not supported" in str(error)
    assert refusal(zipped({}), "x.zip").reason == "empty"
    assert refusal(b"PK\x03\x04 torn", "x.zip").reason == "damaged"
    assert refusal(b"no tar", "x.tar").reason == "unsupported"


def test_hidden_members_and_leftovers_of_systems_are_passed_over() -> None:
    files: dict[str, bytes | str] = {
        "a.txt": "A",
        ".git/config.txt": "B",
        "__MACOSX/._a.txt": "C",
        "Thumbs.db": b"\0",
    }
    document = read(zipped(files), "x.zip")
    assert document.text == "A"
    assert document.warnings == ()


@pytest.mark.parametrize(
    "name", ["/etc/a.txt", "../a.txt", "a/../../b.txt", "C:\\a.txt", "..\\a.txt"]
)
def test_names_that_lead_outside_are_left_out(name: str) -> None:
    document = read(zipped({name: "evil", "b.txt": "B"}), "x.zip")
    assert document.text == "B"
    assert "leads outside" in document.warnings[0]
    assert refusal(tarred({name: "evil"}), "x.tar").reason == "outside"


def test_links_and_devices_are_left_out() -> None:
    assert read(zip_link("link.txt", "/etc/passwd"), "x.zip").text == "a text\n"
    entries = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        entry = tarfile.TarInfo(f"x{kind.decode()}.txt")
        entry.type, entry.linkname = kind, "/etc/passwd"
        entries.append(entry)
    document = read(tarred({"a.txt": "A"}, *entries), "x.tar")
    assert document.text == "A"
    assert len(document.warnings) == 4


def test_containers_in_containers_are_read_three_deep() -> None:
    data, name = b"deep text", "a.txt"
    for level in range(1, MAX_DEPTH + 1):
        data, name = zipped({name: data}), f"{level}.zip"
        assert read(data, name).text == "deep text"
    assert labels(read(data, name)) == ["2.zip > 1.zip > a.txt"]
    error = refusal(zipped({name: data}), "4.zip")
    assert error.reason == "limit"
    assert "3 deep" in str(error)


def test_mails_and_archives_share_the_depth() -> None:
    data, name = b"deep", "a.txt"
    for level in range(4):
        if level % 2 == 0:
            data, name = zipped({name: data}), f"x{level}.zip"
        else:
            letter = mail("m", "")
            letter.add_attachment(data, "application", "zip", filename=name)
            data, name = letter.as_bytes(), f"x{level}.eml"
    assert "3 deep" in "".join(read(data, name).warnings)


def test_bombs_end_quickly() -> None:
    zeros = b"\0" * (40 << 20)
    document = read(zipped({"a.txt": "A", "zeros.txt": zeros}), "x.zip")
    assert document.text == "A"
    assert "as a bomb would" in document.warnings[0]
    assert refusal(gzip.compress(zeros, 1), "x.tgz").reason == "limit"


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("error", [RecursionError(), MemoryError(), KeyError("secret text")])
def test_a_member_on_which_its_parser_fails_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch,
    pack: Callable[[Mapping[str, bytes | str]], bytes],
    error: Exception,
) -> None:
    def fails(data: bytes, name: str, allowance: Allowance) -> Document:
        if name == "b.txt":
            raise error
        return parse(data, name, allowance)

    monkeypatch.setattr(ingest.members, "parse", fails)
    suffix = "zip" if pack is zipped else "tar"
    document = read(pack({"a.txt": "A", "b.txt": "B", "c.txt": "C"}), f"x.{suffix}")
    assert document.text == "A\n\nC"
    (warning,) = document.warnings
    assert warning.startswith("b.txt: ")
    assert "secret" not in warning


def test_a_mail_nested_too_deep_takes_no_other_member_along() -> None:
    deep = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n)
        for n in range(1500)
    )
    document = read(zipped({"a.txt": "A", "deep.eml": deep, "c.txt": "C"}), "x.zip")
    assert document.text == "A\n\nC"
    assert "deeper nesting" in document.warnings[0]


def test_a_damaged_lzma_member_is_told() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", "".join(str(n * n) for n in range(300)))
        archive.writestr("b.txt", "B")
    data = bytearray(packed.getvalue())
    for at in range(50, 70):
        data[at] = 0xFF
    document = read(bytes(data), "x.zip")
    assert document.text == "B"
    assert document.warnings[0].startswith("a.txt: The member is damaged")


def test_the_limits_hold_for_the_whole_tree() -> None:
    inner = zipped({f"{number}.txt": "x" for number in range(10)})
    outer = zipped({f"{number}.zip": inner for number in range(10)})
    assert read(outer, "x.zip", members=110).text.count("x") == 100
    error = refusal(outer, "x.zip", members=109)
    assert (error.reason, "109 members" in str(error)) == ("limit", True)
    big = zipped({"a.txt": "a" * 5000, "b.txt": "b" * 5000})
    assert read(big, "x.zip", unpacked=10_000).text.count("b") == 5000
    error = refusal(big, "x.zip", unpacked=9_999)
    assert (error.reason, "9,999 bytes" in str(error)) == ("limit", True)


def test_a_member_that_lies_about_its_size_is_damaged_or_cut() -> None:
    data = bytearray(zipped({"a.txt": "text " * 1000, "b.txt": "B"}))
    data[data.index(b"PK\x01\x02") + 24 : data.index(b"PK\x01\x02") + 28] = struct.pack("<I", 10)
    document = read(bytes(data), "x.zip")
    assert document.text == "B"
    assert document.warnings[0].startswith("a.txt: ")


def test_chinese_names_of_old_archives_are_understood() -> None:
    data = bytearray(zipped({"xxxxxxxx.txt": "年假"}))
    data = data.replace(b"xxxxxxxx", "员工手册".encode("gb18030"))
    assert labels(read(bytes(data), "x.zip")) == ["员工手册.txt"]


TREE = st.recursive(
    st.text("ab \n#题", max_size=30),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)


def packed_tree(tree: dict[str, object], kind: int) -> bytes:
    files: dict[str, bytes | str] = {}
    for name, below in tree.items():
        if isinstance(below, dict):
            files[f"{name}.{'zip' if kind else 'tar'}"] = packed_tree(below, kind)
        else:
            files[f"{name}.md"] = str(below)
    return zipped(files) if kind else tarred(files)


def leaves(tree: dict[str, object], depth: int = 1) -> list[str]:
    found: list[str] = []
    for below in tree.values():
        if isinstance(below, dict):
            found += leaves(below, depth + 1) if depth < MAX_DEPTH else []
        elif str(below).strip():
            found.append(str(below))
    return found


@settings(max_examples=60, deadline=None)
@given(TREE.filter(lambda tree: isinstance(tree, dict)), st.integers(0, 1))
def test_every_readable_member_is_there_and_every_section_is_exact(
    tree: dict[str, object], kind: int
) -> None:
    texts = leaves(tree)
    data, name = packed_tree(tree, kind), "x.zip" if kind else "x.tar"
    if not texts:
        assert refusal(data, name).reason in ("empty", "limit", "unsupported")
        return
    document = read(data, name)
    assert document.text == "\n\n".join(texts)
    position = 0
    for span in document.sections:
        assert position <= span.start < span.end <= len(document.text)
        assert not document.text[position : span.start].strip()
        position = span.end
    assert not document.text[position:].strip()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_archives_are_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["x.zip", "x.tar", "x.tgz"]))
    files = {"a.md": MARKDOWN, "b.txt": "plain " * 50}
    whole = bytearray({"x.zip": zipped, "x.tar": tarred, "x.tgz": tgz}[kind](files))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(DocumentRejected):
        read(bytes(whole[: max(cut, 1)]), kind)
