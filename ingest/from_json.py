"""JSON, JSON Lines and Jupyter notebooks -> Document: values after their key paths.

Equal flat records become a Markdown table, other records a paragraph each with a line for every
value; keys of the outermost object are sections. Numbers stay as they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ingest.blocks import TextWriter, clip
from ingest.from_text import markdown_document
from rag.errors import DocumentRejected
from rag.schema import Document

_JSON = "application/json"
_LINES = "application/jsonl"
_NOTEBOOK = "application/x-ipynb+json"
_MAX_DEPTH = 100
_MAX_COLUMNS = 30
_LONGEST_CELL = 300
_LONGEST_PATH = 300
_LONGEST_OUTPUT = 20_000
_BACKTICKS = re.compile(r"`{3,}")
_ESCAPES = re.compile("\x1b\\[[0-9;]*[A-Za-z]| \\[[0-9;]{1,8}m")


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object with its keys in order, repeated ones too."""

    pairs: list[tuple[str, _Value]]


_Value: TypeAlias = "_Object | list[_Value] | str | bool | None"
_NESTED = (_Object, list)


def json_document(text: str) -> Document:
    """Read a decoded .json file.

    Args:
        text: One JSON value; several, one on each line, are read as JSON Lines.

    Raises:
        DocumentRejected: reason "damaged" when it is no JSON or nests deeper than 100.
    """
    try:
        value = _load(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise _damaged(error.lineno, error.msg) from error
        return replace(jsonl_document(text), media_type=_JSON)
    writer = TextWriter()
    if isinstance(value, _Object):
        _write_object(writer, value)
    else:
        _write_records(writer, value if isinstance(value, list) else [value], "")
    return _document(writer, _JSON)


def jsonl_document(text: str) -> Document:
    """Read a decoded .jsonl file: one record a line.

    Raises:
        DocumentRejected: reason "damaged", with the line that is no JSON.
    """
    records: list[_Value] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(_load(line))
            except json.JSONDecodeError as error:
                raise _damaged(number, error.msg) from error
    writer = TextWriter()
    _write_records(writer, records, "")
    return _document(writer, _LINES)


def notebook_document(text: str) -> Document:
    """Read a decoded Jupyter notebook: its Markdown, its code in fences, what the code printed.

    Raises:
        DocumentRejected: reason "damaged" when it is no JSON, "unsupported" when no notebook.
    """
    try:
        notebook = _load(text)
    except json.JSONDecodeError as error:
        raise _damaged(error.lineno, error.msg) from error
    cells = _get(notebook, "cells")
    if not isinstance(cells, list):
        sheets = _get(notebook, "worksheets")
        cells = _get(sheets[0], "cells") if isinstance(sheets, list) and sheets else None
    if not isinstance(cells, list):
        raise DocumentRejected(
            "Not a notebook: its JSON holds no list of cells.",
            reason="unsupported",
            do="Give the file the suffix .json.",
        )
    language = _text(_get(_get(_get(notebook, "metadata"), "language_info"), "name"))
    parts = [part for cell in cells for part in _cell(cell, language)]
    document = markdown_document("\n\n".join(parts))
    title = clip(_text(_get(_get(notebook, "metadata"), "title"))) or document.title
    return replace(document, title=title, media_type=_NOTEBOOK)


def _load(text: str) -> _Value:
    try:
        value: _Value = json.loads(
            text, object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=str
        )
    except RecursionError as error:
        raise _too_deep() from error
    return value


def _too_deep() -> DocumentRejected:
    return DocumentRejected(
        f"The JSON nests deeper than {_MAX_DEPTH}.", reason="damaged", do="Flatten it."
    )


def _damaged(line: int, why: str) -> DocumentRejected:
    return DocumentRejected(
        f"No valid JSON: {clip(why)} in line {line:,}.", reason="damaged", do="Correct it."
    )


def _document(writer: TextWriter, media_type: str) -> Document:
    text, sections = writer.finish()
    return Document(text, sections=sections, media_type=media_type)


def _write_object(writer: TextWriter, value: _Object) -> None:
    """Write the outermost object: plain values first, then a section for each other key."""
    plain: list[tuple[str, _Value]] = [
        (key, item) for key, item in value.pairs if not isinstance(item, _NESTED)
    ]
    if plain:
        _write_records(writer, [_Object(plain)], "")
    for key, item in value.pairs:
        if isinstance(item, _NESTED):
            writer.heading(1, key)
            _write_records(writer, item if isinstance(item, list) else [item], clip(key))


def _write_records(writer: TextWriter, records: Sequence[_Value], path: str) -> None:
    """Write a list: a table of flat records, else a paragraph for each object or list in it."""
    columns = _columns(records)
    if columns:
        rows = [columns]
        for record in records:
            cells = dict(record.pairs) if isinstance(record, _Object) else {}
            rows.append([_text(cells.get(column)) for column in columns])
        writer.table(rows)
        return
    plain: list[str] = []
    for record in records:
        if isinstance(record, _NESTED):
            writer.paragraph("\n".join(plain))
            plain.clear()
            prefix = path if isinstance(record, _Object) and path and len(records) == 1 else ""
            writer.paragraph("\n".join(_lines(record, prefix, 1)))
        elif record is not None:
            plain.append(_text(record))
    writer.paragraph("\n".join(plain))


def _columns(records: Sequence[_Value]) -> list[str]:
    """Return the columns of flat records that fit a table, [] if they do not."""
    columns: dict[str, None] = {}
    for record in records:
        if not isinstance(record, _Object) or len(dict(record.pairs)) < len(record.pairs):
            return []
        for key, item in record.pairs:
            if isinstance(item, _NESTED) or len(_text(item)) > _LONGEST_CELL:
                return []
            columns[key] = None
        if len(columns) > _MAX_COLUMNS:
            return []
    filled = sum(len(record.pairs) for record in records if isinstance(record, _Object))
    fits = len(records) > 1 and len(columns) > 1 and 2 * filled >= len(columns) * len(records)
    return list(columns) if fits and "" not in columns else []


def _lines(value: _Value, path: str, depth: int) -> Iterator[str]:
    """Yield "path: value" for every value below."""
    if depth > _MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, _Object):
        for key, item in value.pairs:
            yield from _lines(item, _join(path, clip(key)), depth + 1)
    elif isinstance(value, list):
        if value and not any(isinstance(item, _NESTED) for item in value):
            yield (
                f"{path}: {', '.join(_text(item) for item in value)}"
                if path
                else ", ".join(_text(item) for item in value)
            )
            return
        for index, item in enumerate(value):
            yield from _lines(item, f"{path}[{index}]", depth + 1)
    elif (text := _text(value)).strip():
        yield f"{path}: {text}" if path else text


def _join(path: str, key: str) -> str:
    joined = f"{path}.{key}" if path else key
    return joined if len(joined) <= _LONGEST_PATH else f"…{joined[1 - _LONGEST_PATH :]}"


def _text(value: _Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""


def _get(value: _Value, key: str) -> _Value:
    """Return a member of an object, None if there is none."""
    return dict(value.pairs).get(key) if isinstance(value, _Object) else None


def _joined(value: _Value) -> str:
    """Return a notebook's multi-line text, a string or a list of strings."""
    if isinstance(value, list):
        return "".join(_text(item) for item in value)
    return _text(value)


def _cell(cell: _Value, language: str) -> Iterator[str]:
    """Yield the Markdown of one cell."""
    kind = _text(_get(cell, "cell_type"))
    source = (_joined(_get(cell, "source")) or _joined(_get(cell, "input"))).strip("\n")
    if kind == "heading":
        level = _text(_get(cell, "level"))
        yield f"{'#' * (int(level) if level in tuple('123456') else 1)} {source}"
    elif kind != "code":
        yield from [source] if source.strip() else []
    else:
        yield from [_fenced(source, language)] if source.strip() else []
        outputs = _get(cell, "outputs")
        for output in outputs if isinstance(outputs, list) else []:
            shown = _get(_get(output, "data"), "text/plain")
            text = _joined(_get(output, "text")) or _joined(shown)
            text = _ESCAPES.sub("", text).strip("\n")
            if text.strip():
                yield _fenced(text[:_LONGEST_OUTPUT], "")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max((len(run) + 1 for run in _BACKTICKS.findall(text)), default=3)
    return f"{fence}{language if language.isalnum() else ''}\n{text}\n{fence}"
