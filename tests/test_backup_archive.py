"""The archive of a backup: what is written is read back; nothing else is taken for one."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.backup.archive import DATABASE, MANIFEST, SUMS, ArchiveReader, ArchiveWriter
from rag.errors import BackupError


def blob(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"blobs/{digest[:2]}/{digest}"


def written(members: list[tuple[str, bytes]], folder: Path) -> bytes:
    target = io.BytesIO()
    writer = ArchiveWriter(target, folder)
    for name, data in members:
        writer.add(name, len(data), [data])
    writer.finish()
    return target.getvalue()


def read(data: bytes) -> list[tuple[str, bytes]]:
    reader = ArchiveReader(io.BytesIO(data), "x")
    return [(member.name, b"".join(member.blocks)) for member in reader.members()]


def tar(*members: tuple[tarfile.TarInfo, bytes], end: bytes = bytes(1024)) -> bytes:
    """An archive with whatever headers, with right sums if its last member is called so."""
    lines = b""
    raw = b""
    for info, data in members:
        if info.name == SUMS:
            data = data or lines
        info.size = info.size or len(data)
        lines += f"{hashlib.sha256(data).hexdigest()}  {info.name}\n".encode()
        raw += info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
    return gzip.compress(raw + end)


def info(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


GOOD = [(info(MANIFEST), b"{}"), (info(DATABASE), b"db")]


@given(
    blobs=st.sets(st.binary(max_size=2000), max_size=5),
    parts=st.dictionaries(st.from_regex(r"part_[0-9a-f]{1,30}", fullmatch=True), st.binary()),
    database=st.binary(max_size=3000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_and_is_a_plain_tar(
    tmp_path: Path, blobs: set[bytes], parts: dict[str, bytes], database: bytes
) -> None:
    members = [(MANIFEST, b"{}"), (DATABASE, database)]
    members += [(f"parts/{name}", data) for name, data in sorted(parts.items())]
    members += sorted((blob(data), data) for data in blobs)
    data = written(members, tmp_path)
    assert read(data) == members
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        names = [item.name for item in found]
        sums = found.extractfile(SUMS)
        assert sums is not None
        lines = sums.read().decode().splitlines()
    assert names == [*(name for name, _ in members), SUMS]
    assert lines == [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in members]


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_one_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Any byte changed, cut off or put in: refused, or still the very same content."""
    content = b"some bytes of a file"
    members = [(MANIFEST, b"{}"), (DATABASE, b"x" * 700), (blob(content), content)]
    whole = written(members, tmp_path)
    packed = data.draw(st.booleans())
    raw = bytearray(whole if packed else gzip.decompress(whole))
    place = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert"])):
        case "change":
            raw[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[place:]
        case _:
            raw[place:place] = data.draw(st.binary(min_size=1, max_size=600))
    changed = bytes(raw) if packed else gzip.compress(bytes(raw))
    try:
        found = read(changed)
    except BackupError:
        return
    assert found == members


@given(noise=st.binary(max_size=3000))
def test_noise_is_no_backup(noise: bytes) -> None:
    for data in (noise, gzip.compress(noise)):
        with pytest.raises(BackupError, match="no complete backup"):
            read(data)


@pytest.mark.parametrize(
    "evil",
    [
        info("/etc/passwd"),
        info("../outside"),
        info("blobs/../../outside"),
        info("parts/part_a/../../x"),
        info("blobs/ab/" + "ac" * 32),
        info("youju.db-wal"),
        info("parts/part_a", tarfile.SYMTYPE, "/etc/passwd"),
        info("parts/part_a", tarfile.LNKTYPE, "youju.db"),
        info("parts/part_a", tarfile.CHRTYPE),
        info("parts/part_a", tarfile.BLKTYPE),
        info("parts/part_a", tarfile.FIFOTYPE),
        info("parts/part_a", tarfile.DIRTYPE),
        info("parts/part_a", tarfile.XHDTYPE),
        info("parts/part_a", tarfile.GNUTYPE_LONGNAME),
        info("parts/part_a", tarfile.GNUTYPE_SPARSE),
        info(MANIFEST),
        info(DATABASE),
    ],
    ids=lambda found: f"{found.name[:20]} {found.type.decode()}",
)
def test_what_no_backup_holds_is_refused(evil: tarfile.TarInfo) -> None:
    with pytest.raises(BackupError, match=r"which no backup does|not in its place"):
        read(tar(*GOOD, (evil, b""), (info(SUMS), b"")))
    read(tar(*GOOD, (info(SUMS), b"")))  # the same without it


def test_a_huge_size_is_neither_read_nor_believed() -> None:
    for size in (1 << 62, 1 << 40):
        with pytest.raises(BackupError, match=r"would have|cut short"):
            read(tar(*GOOD, (info("parts/part_a", size=size), b"x")))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tar(*GOOD), "cut short|header"),
        (tar(GOOD[0], (info(SUMS), b"")), "not in its place"),
        (tar(GOOD[1], GOOD[0], (info(SUMS), b"")), "not in its place"),
        (tar(*GOOD, (info(SUMS), b"0" * 64)), "SHA256SUMS"),
        (tar(*GOOD, (info(SUMS), b""), end=bytes(1024) + b"more"), "follows its end"),
        (tar(*GOOD, (info(SUMS), b""), end=bytes(512)), "cut short"),
        (tar(*GOOD, (info(SUMS), b""), end=bytes(1 << 20)), "follows its end"),
        (tar(*GOOD, (info("parts/part_b"), b""), (info("parts/part_a"), b"")), "not in its place"),
        (tar(*GOOD, (info("parts/part_b"), b""), (info("parts/part_b"), b"")), "not in its place"),
    ],
)
def test_what_is_incomplete_or_out_of_order_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BackupError, match=why):
        read(data)


def test_a_member_of_the_wrong_size_is_our_own_mistake(tmp_path: Path) -> None:
    writer = ArchiveWriter(io.BytesIO(), tmp_path)
    with pytest.raises(ValueError, match="got 1 bytes, expected 2"):
        writer.add(MANIFEST, 2, [b"x"])
    writer.close()


def test_eight_gibibytes_fit_into_a_header(tmp_path: Path) -> None:
    """The size of a larger database is written in GNU's way, and read."""
    header = info(DATABASE, size=9 << 30).tobuf(tarfile.GNU_FORMAT)
    first = info(MANIFEST, size=2).tobuf(tarfile.GNU_FORMAT) + b"{}" + bytes(510)
    members = ArchiveReader(io.BytesIO(gzip.compress(first + header)), "x").members()
    assert b"".join(next(members).blocks) == b"{}"
    assert next(members).size == 9 << 30
