"""Makes folders of mixed documents: text, Markdown, HTML, CSV, Word and PDF.

Documents with headings have one for every three paragraphs. Word and PDF need python-docx and
reportlab (the extra `bench`).
"""

from __future__ import annotations

import csv
import html
import random
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_mixed(folder: Path, files: int, words: int, seed: int = 0) -> None:
    """Write that many documents of about `words` words each, the six formats in turn."""
    sentences = _sentences()
    chosen = random.Random(seed)
    makers: tuple[tuple[str, Callable[[Path, str, list[str]], None]], ...] = (
        (".txt", _text), (".md", _markdown), (".html", _html),
        (".csv", _csv), (".docx", _docx), (".pdf", _pdf),
    )  # fmt: skip
    for number in range(files):
        suffix, make = makers[number % len(makers)]
        paragraphs: list[str] = []
        count = 0
        while count < words:
            lines = [chosen.choice(sentences) for _ in range(4)]
            paragraphs.append(" ".join(lines) + f" Entry {chosen.randrange(10**9)}.")
            count += len(paragraphs[-1].split())
        make(folder / f"{number:05}{suffix}", f"Report {number}", paragraphs)


def _sentences() -> list[str]:
    files = sorted((ROOT / "samples").rglob("*-en*.md"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    return [line.strip("-*# ") for line in lines if len(line) > 60 and "|" not in line]


def _parts(paragraphs: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, three paragraphs)."""
    for start in range(0, len(paragraphs), 3):
        yield start // 3 + 1, paragraphs[start : start + 3]


def _text(path: Path, title: str, paragraphs: list[str]) -> None:
    path.write_text("\n\n".join([title, *paragraphs]) + "\n", "utf-8")


def _markdown(path: Path, title: str, paragraphs: list[str]) -> None:
    parts = [f"## Part {number}\n\n" + "\n\n".join(part) for number, part in _parts(paragraphs)]
    path.write_text("\n\n".join([f"# {title}", *parts]) + "\n", "utf-8")


def _html(path: Path, title: str, paragraphs: list[str]) -> None:
    body = ""
    for number, part in _parts(paragraphs):
        body += f"<h2>Part {number}</h2>" + "".join(f"<p>{html.escape(text)}</p>" for text in part)
    page = f"<!doctype html><title>{title}</title><body><h1>{title}</h1>{body}</body>"
    path.write_text(page, "utf-8")


def _csv(path: Path, _title: str, paragraphs: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["number", "note"])
        rows.writerows(enumerate(paragraphs, 1))


def _docx(path: Path, title: str, paragraphs: list[str]) -> None:
    from docx import Document

    document = Document()
    document.add_heading(title, 0)
    for number, part in _parts(paragraphs):
        document.add_heading(f"Part {number}", 1)
        for text in part:
            document.add_paragraph(text)
    document.save(str(path))


def _pdf(path: Path, title: str, paragraphs: list[str]) -> None:
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate

    styles = getSampleStyleSheet()
    flow = [Paragraph(title, styles["Heading1"])]
    flow += [Paragraph(html.escape(text), styles["BodyText"]) for text in paragraphs]
    SimpleDocTemplate(str(path)).build(flow)
