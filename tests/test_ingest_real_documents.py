"""Real and hostile documents come out as their manifest says they must."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from chunk_checks import check_passages, packaged_tokens

from ingest.chunk import Chunker
from ingest.fence import ParserPool
from rag.errors import DocumentRejected

FORMATS = set("txt md html pdf docx docm doc pptx ppt xlsx xls odt rtf csv ipynb xml".split())
FORMATS |= {"epub", "eml", "msg", "zip"}
EXPECTED = {
    "parse": {"parse"},
    "reject": {"encrypted", "damaged", "unsupported"},
    "ocr": {"needs-ocr"},
    "garbled": {"needs-ocr", "warned"},
    "empty": {"empty"},
    "safe": {"parse", "damaged", "empty", "limit", "outside", "needs-ocr"},
}


def fold(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_real_documents_come_out_as_their_manifest_says(shared_docs: Path) -> None:
    wrong = []
    tokens = packaged_tokens()
    chunker = Chunker(tokens, 220, 40)
    with (
        (shared_docs / "manifest.csv").open(encoding="utf-8", newline="") as manifest,
        ParserPool(timeout_s=30, memory_mib=1024, ocr=False) as pool,
    ):
        rows = [row for row in csv.DictReader(manifest) if row["format"] in FORMATS]
        for row in rows:
            try:
                document = pool.parse((shared_docs / row["file"]).read_bytes(), row["file"])
                check_passages(document, chunker, tokens, longest_cluster=100)
                for span in (*document.pages, *document.sections):
                    assert 0 <= span.start < span.end <= len(document.text)
                outcome = "parse" if fold(row["phrase"]) in fold(document.text) else "other"
                if row["expected"] == "garbled" and document.warnings:
                    outcome = "warned"
            except DocumentRejected as error:
                outcome = error.reason
            if outcome not in EXPECTED[row["expected"]]:
                wrong.append((row["file"], row["expected"], outcome))
    assert len(rows) >= 65
    assert wrong == []
