"""Checks the sample corpus and its questions."""

import codecs
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import kreuzberg
import pytest

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
CORPUS = SAMPLES / "corpus"
FORMATS = {".txt", ".md", ".html", ".pdf", ".docx"}
DOCUMENTS = sorted(path for path in CORPUS.rglob("*") if path.is_file())
DOCUMENTS_OF_TEXT = [path for path in DOCUMENTS if path.suffix in {".txt", ".md"}]
QA: list[dict[str, Any]] = [
    json.loads(line) for line in (SAMPLES / "qa.jsonl").read_text(encoding="utf-8").splitlines()
]
ANSWERABLE = [entry for entry in QA if entry["answerable"]]


def language(path: Path) -> str:
    """Returns the language that a document's file name ends with."""
    return "en" if path.stem.endswith("-en") else "zh"


def encoding_of(data: bytes) -> str:
    """Returns the encoding of a text document: UTF-16 with a mark, UTF-8 or GB18030."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "gb18030"
    return "utf-8"


@cache
def folded_text(path: Path) -> str:
    """Returns a document's text with each run of white space folded into one space."""
    if path in DOCUMENTS_OF_TEXT:
        data = path.read_bytes()
        text = data.decode(encoding_of(data))
    else:
        text = kreuzberg.extract_file_sync(str(path)).content
    return " ".join(text.split())


def test_corpus_has_every_format_in_both_languages() -> None:
    counts = Counter((path.suffix, language(path)) for path in DOCUMENTS)
    assert len(DOCUMENTS) >= 24
    assert set(counts) == {(suffix, lang) for suffix in FORMATS for lang in ("zh", "en")}


def test_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in DOCUMENTS) < 1_000_000


def test_corpus_has_the_three_encodings() -> None:
    encodings = Counter(encoding_of(path.read_bytes()) for path in DOCUMENTS_OF_TEXT)
    assert encodings == {"utf-8": len(DOCUMENTS_OF_TEXT) - 2, "utf-16": 1, "gb18030": 1}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document_has_text(path: Path) -> None:
    text = folded_text(path)
    assert len(text) > 500
    assert "\ufffd" not in text
    assert any("\u4e00" <= char <= "\u9fff" for char in text) == (language(path) == "zh")


@pytest.mark.parametrize(
    "source", sorted((SAMPLES / "source").rglob("*.md")), ids=lambda path: path.name
)
def test_source_has_its_document(source: Path) -> None:
    assert CORPUS / source.relative_to(SAMPLES / "source").with_suffix("") in DOCUMENTS


def test_there_are_sixty_questions() -> None:
    assert [entry["id"] for entry in QA] == [f"q{number:02}" for number in range(1, 61)]
    assert len({entry["question"] for entry in QA}) == 60
    assert len(ANSWERABLE) == 45
    unanswerable = Counter(entry["lang"] for entry in QA if not entry["answerable"])
    assert unanswerable == {"zh": 8, "en": 7}


@pytest.mark.parametrize("entry", QA, ids=lambda entry: entry["id"])
def test_question_is_well_formed(entry: dict[str, Any]) -> None:
    assert list(entry) == ["id", "lang", "question", "answerable", "document", "answers"]
    assert entry["lang"] in {"zh", "en"}
    assert entry["question"] == entry["question"].strip() != ""
    assert isinstance(entry["answerable"], bool)
    assert bool(entry["answers"]) == (entry["document"] is not None) == entry["answerable"]


@pytest.mark.parametrize("entry", ANSWERABLE, ids=lambda entry: entry["id"])
def test_answers_occur_in_the_document(entry: dict[str, Any]) -> None:
    path = CORPUS / entry["document"]
    assert path in DOCUMENTS
    assert language(path) == entry["lang"]
    for answer in entry["answers"]:
        assert answer == " ".join(answer.split()) != ""
        assert answer in folded_text(path)


def test_questions_reach_every_format_and_nearly_every_document() -> None:
    asked = {CORPUS / entry["document"] for entry in ANSWERABLE}
    formats = {(path.suffix, language(path)) for path in asked}
    assert formats == {(suffix, lang) for suffix in FORMATS for lang in ("zh", "en")}
    assert len(asked) >= 0.9 * len(DOCUMENTS)


def test_answers_of_the_conversations_occur_in_their_documents() -> None:
    for line in (SAMPLES / "followups.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for answer in entry["answers"]:
            assert answer in folded_text(CORPUS / entry["document"]), entry["id"]
