"""Pictures and scans: refused without the extra, read with it, bounded in pages."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from containers import mail, read, refusal, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.allowance import Allowance
from ingest.fence import ParserPool
from ingest.ocr import Box, ocr_installed, reading_order
from ingest.parse import parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

extra = pytest.mark.skipif(not ocr_installed(), reason="the extra `ocr` is not installed")


def png(width: int = 2, height: int = 2) -> bytes:
    """Return a small white picture, whatever size its header claims."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", crc32(name + body))

    head = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0\xff\xff" * 2)
    parts = part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


PNG = png()


class FakeReader:
    """Says what it is told for each picture."""

    def __init__(self, *pages: list[str]) -> None:
        self.pages = list(pages)
        self.shapes: list[tuple[int, ...]] = []

    def read(self, image: NDArray[np.uint8]) -> list[str]:
        self.shapes.append(image.shape)
        return self.pages.pop(0)


def scan(pages: int) -> bytes:
    """Return a PDF of pages that show a picture each (a black square), and no text."""
    out = bytearray(b"%PDF-1.4\n")
    places: list[int] = []
    kids = " ".join(f"{number + 5} 0 R" for number in range(pages))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {pages}/MediaBox[0 0 200 200]/Kids[{kids}]>>",
        "<</Length 26>>\nstream\nq 90 0 0 90 9 9 cm /I Do Q\nendstream",
        "<</Subtype/Image/Width 1/Height 1/BitsPerComponent 8/ColorSpace/DeviceGray/Length 1>>\n"
        "stream\n\x01\nendstream",
    ]
    page = "<</Type/Page/Parent 2 0 R/Contents 3 0 R/Resources<</XObject<</I 4 0 R>>>>>>"
    for number, body in enumerate([*objects, *[page] * pages], start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    start = len(out)
    out += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{place:010d} 00000 n \n" for place in places).encode()
    out += f"trailer<</Size {len(places) + 1}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF".encode()
    return bytes(out)


def test_without_a_reader_pictures_and_scans_are_refused_with_the_way_out() -> None:
    for data, name in ((PNG, "a.png"), (scan(2), "a.pdf"), (zipped({"a.png": PNG}), "a.zip")):
        allowance = Allowance()
        with pytest.raises(Exception, match=r"pip install 'youju\[ocr\]'") as caught:
            parse(data, name, allowance)
        assert getattr(caught.value, "reason", "") == "needs-ocr"
        assert allowance.wanted_ocr > 0
    assert refusal(b"\xff\xd8\xff", "a.png").reason == "unsupported"


def test_a_scan_is_read_page_by_page_and_says_so() -> None:
    reader = FakeReader(["First page of", "the scan."], [], ["第三页"])
    document = read(scan(3), "a.pdf", reader=reader)
    assert [span.label for span in document.pages] == ["1", "3"]
    assert "第三页" in document.text
    assert document.warnings[0] == "Pages 1, 3 were read by OCR and may hold errors."
    assert reader.shapes[0] == (556, 556, 3)


def test_pages_beyond_the_limit_are_told() -> None:
    document = read(scan(3), "a.pdf", reader=FakeReader(["one"], ["two"]), ocr_pages=2)
    assert len(document.pages) == 2
    assert "Page 3 not read by OCR (setting ocr_pages)." in document.warnings


def test_a_picture_in_an_archive_or_mail_is_read() -> None:
    pytest.importorskip("PIL")
    for data, name in (
        (zipped({"a.png": PNG}), "x.zip"),
        (mail("s", "text", a_png=PNG).as_bytes(), "x.eml"),
    ):
        document = read(data, name, reader=FakeReader(["Words."]))
        assert "Words." in document.text
        assert document.warnings == ("a.png: The picture was read by OCR and may hold errors.",)


def test_damaged_and_huge_pictures_are_refused() -> None:
    image = pytest.importorskip("PIL.Image")
    torn = io.BytesIO()
    image.new("L", (500, 500)).save(torn, "TIFF", compression="tiff_deflate")
    for data, name in ((PNG[:40], "a.png"), (torn.getvalue()[:200], "a.tif")):
        error = refusal_with_reader(data, name)
        assert error == "damaged"
    assert refusal_with_reader(png(20_000, 9_000), "a.png") == "too-large"
    assert refusal_with_reader(png(90_000, 90_000), "a.png") == "too-large"


def refusal_with_reader(data: bytes, name: str) -> str:
    with pytest.raises(Exception, match="picture") as caught:
        read(data, name, reader=FakeReader(["x"]))
    return str(getattr(caught.value, "reason", ""))


def test_each_picture_of_a_tiff_is_a_page() -> None:
    image = pytest.importorskip("PIL.Image")
    packed = io.BytesIO()
    first, second = image.new("L", (60, 40), 255), image.new("CMYK", (50, 40))
    first.save(packed, "TIFF", save_all=True, append_images=[second])
    document = read(packed.getvalue(), "a.tiff", reader=FakeReader(["One."], ["Two."]))
    assert [span.label for span in document.pages] == ["1", "2"]
    assert document.media_type == "image/tiff"


def test_rows_are_read_across_and_columns_down() -> None:
    table = [Box(x, y, x + 50, y + 10, f"{x}-{y}") for y in (0, 20) for x in (0, 100)]
    assert reading_order(table) == ["0-0  100-0", "0-20  100-20"]
    columns = [Box(0, 0, 450, 20, "Heading")]
    for row in range(5):
        top = 30 + 20 * row
        columns += [Box(0, top, 200, top + 12, f"L{row}"), Box(250, top, 450, top + 12, f"R{row}")]
    expected = ["Heading", *(f"L{row}" for row in range(5)), *(f"R{row}" for row in range(5))]
    assert reading_order(columns) == expected


EDGES = ((0, 900), (0, 900), (1, 300), (1, 90))
"""Left, top, width, height."""


@given(
    st.lists(
        st.tuples(
            st.integers(0, 900), st.integers(0, 900), st.integers(1, 300), st.integers(1, 90)
        ),
        max_size=30,
    )
)
@settings(deadline=None)
def test_every_box_is_read_once(frames: list[tuple[int, ...]]) -> None:
    boxes = [Box(x, y, x + w, y + h, f"<{n}>") for n, (x, y, w, h) in enumerate(frames)]
    text = " ".join(reading_order(boxes))
    assert sorted(text.split()) == sorted(f"<{n}>" for n in range(len(frames)))


@extra
@pytest.mark.slow
def test_real_scans_are_read_behind_the_fence(shared_docs: Path) -> None:
    phrases = {
        "ocr_test.pdf": "Docling bundles PDF document conversion to JSON",
        "non_searchable.pdf": "This is an example of a non-text-searchable PDF.",
        "droste.zip": "Droste",
    }
    with ParserPool(ocr_timeout_s=300) as pool:
        for name, phrase in phrases.items():
            document = pool.parse((shared_docs / name).read_bytes(), name)
            assert phrase in document.text
            assert "read by OCR" in "".join(document.warnings)
