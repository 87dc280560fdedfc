"""Renders a report as one HTML file that needs nothing else, and as Markdown beside it.

All text in it is foreign: the HTML is escaped by the template engine, the Markdown by
eval.report_text. The page has no script and names no other file; its policy forbids both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.files import check_writable, write_together
from eval.report_data import Report
from eval.report_plots import figures
from eval.report_tables import Section, Table, sections, summary
from eval.report_text import MOST, markdown
from rag.errors import UsageError
from rag.terminal import one_line

TEMPLATE = "report.html.j2"
SUFFIXES = (".html", ".htm")


def check_out(path: Path) -> None:
    """Refuse a place where no report can be written, before hours are spent on making it.

    Raises:
        UsageError: If it is not named as HTML.
        PathError: If the folder is missing or may not be written, or a folder is in the way.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"Got --out {path}, expected a name that ends in .html.")
    for each in (path, beside(path)):
        check_writable(each, "--out")


def beside(path: Path) -> Path:
    """Return where the Markdown goes: the same name, ending in .md."""
    return path.with_suffix(".md")


def write_report(path: Path, report: Report) -> None:
    """Write the HTML and, beside it, the Markdown; each appears whole or not at all.

    Args:
        path: Of the HTML; both are replaced if they exist.
        report: What is shown.

    Raises:
        MissingExtra: If matplotlib is not installed.
        PathError: If a file cannot be written.
    """
    write_together({path: [render_html(report)], beside(path): [render_markdown(report)]})


def render_html(report: Report) -> str:
    """Return the page; the same report gives the same text.

    Raises:
        MissingExtra: If matplotlib is not installed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def harmless(value: object) -> object:
        foreign = isinstance(value, str) and not isinstance(value, Markup)
        return one_line(value, MOST) if foreign and isinstance(value, str) else value

    engine = Environment(
        loader=PackageLoader("eval"), autoescape=True, undefined=StrictUndefined, finalize=harmless
    )
    return engine.get_template(TEMPLATE).render(
        title=_title(report),
        summary=summary(report),
        sections=sections(report),
        figures={name: Markup(drawn) for name, drawn in figures(report).items()},  # noqa: S704
    )


def render_markdown(report: Report) -> str:
    """Return the same sentences and tables as Markdown (CommonMark with tables)."""
    lines = [f"# {markdown(_title(report))}", "", f"Measured: {markdown(summary(report))}", ""]
    for section in sections(report):
        lines += [f"## {markdown(section.title)}", "", *_body(section)]
        for part in section.parts:
            lines += [f"### {markdown(part.title)}", "", *_body(part)]
    return "\n".join(lines).rstrip() + "\n"


def _title(report: Report) -> str:
    return f"Evaluation of {report.data}"


def _body(section: Section) -> Iterator[str]:
    for warning in section.warnings:
        yield from (f"**Warning.** {markdown(warning)}", "")
    for note in section.notes:
        yield from (f"{markdown(note)}", "")
    if section.code:
        yield from ("```sh", one_line(section.code, MOST), "```", "")
    for table in section.tables:
        yield from (f"**{markdown(table.caption)}**", "")
        if table.rows:
            yield from (*_table(table), "")


def _table(table: Table) -> Iterator[str]:
    dashes = ["---", *["---:" if table.numbers else "---"] * (len(table.header) - 1)]
    for row in (table.header, None, *table.rows):
        cells = dashes if row is None else [markdown(cell) for cell in row]
        yield f"| {' | '.join(cells)} |"
