"""CSV, JSON, notebooks, XML and reStructuredText become readable, bounded text."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.from_csv import csv_document
from ingest.parse import parse
from rag.errors import DocumentRejected

ROWS = "| 姓名 | 备注 |\n| --- | --- |\n| 张三 | 工程师，负责泵 |\n| 李四 | 会计，负责报销 |"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_encodings_are_found(encoding: str, separator: str) -> None:
    lines = ["姓名{}备注", "张三{}工程师，负责泵", "李四{}会计，负责报销"]
    text = "\r\n".join(line.format(separator) for line in lines)
    assert parse(text.encode(encoding), "a.csv").text == ROWS


def test_quotes_line_ends_and_named_separators() -> None:
    text = 'sep=;\na;b\n"x\ny; z";"say ""hi"""\n'
    assert csv_document(text).text == '| a | b |\n| --- | --- |\n| x y; z | say "hi" |'
    open_quote = 'a,b\n"1,2\n' + "3,4\n" * 60_000
    document = csv_document(open_quote)
    assert document.text.endswith("| 3 | 4 |")
    assert document.warnings


@given(st.text(max_size=300))
def test_any_text_is_read_as_csv(text: str) -> None:
    document = csv_document(text)
    assert "\r" not in document.text


word = st.text(alphabet='ab,;"|\n泵', min_size=1, max_size=8).filter(str.strip)


@given(st.lists(st.tuples(word, word, word), min_size=2, max_size=6))
def test_every_row_written_is_a_row_read(rows: list[tuple[str, str, str]]) -> None:
    target = io.StringIO()
    csv.writer(target, quoting=csv.QUOTE_ALL).writerows(rows)
    text = csv_document("sep=,\n" + target.getvalue()).text
    assert len(text.split("\n")) == len(rows) + 1


def test_json_names_every_value_by_its_path() -> None:
    value = {
        "name": "JL-200",
        "limits": {"bar": [1, 2], "max": {"rpm": 2900.50}},
        "parts": [{"id": 1, "名称": "叶轮"}, {"id": 2, "名称": "轴"}],
        "log": [{"at": "x", "by": {"who": "y"}}, {"at": "z"}],
    }
    document = parse(json.dumps(value).encode(), "a.json")
    assert document.text == (
        "name: JL-200\n\nlimits\n\nlimits.bar: 1, 2\nlimits.max.rpm: 2900.5\n\n"
        "parts\n\n| id | 名称 |\n| --- | --- |\n| 1 | 叶轮 |\n| 2 | 轴 |\n\n"
        "log\n\nat: x\nby.who: y\n\nat: z"
    )
    assert [span.label for span in document.sections] == ["limits", "parts", "log"]


def test_json_lines_duplicates_and_depth() -> None:
    assert parse(b'{"a": 1, "a": 2}\n\n{"b": [3]}\n', "a.jsonl").text == "a: 1\na: 2\n\nb: 3"
    assert parse(b'{"a": "x"}\n{"a": "y"}', "a.json").text == "a: x\n\na: y"
    for data in (b"[" * 100_000, b"[" * 150 + b"1" + b"]" * 150, b'{"a": 1', b'{"a": 1}\n{"b"'):
        with pytest.raises(DocumentRejected) as caught:
            parse(data, "a.json")
        assert caught.value.reason == "damaged"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(values)
def test_any_json_is_read_or_refused_as_empty(value: object) -> None:
    try:
        outcome = "read" if parse(json.dumps(value).encode(), "a.json").text else "nothing"
    except DocumentRejected as error:
        outcome = error.reason
    assert outcome in ("read", "empty")


def test_a_notebook_keeps_headings_code_and_printed_text() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# 泵\n", "text"]},
        {"cell_type": "code", "source": "# no heading", "outputs": [
            {"text": ["\x1b[31m42\x1b[0m\n"]}, {"data": {"text/html": "<b>", "text/plain": "7"}}]},
    ]  # fmt: skip
    notebook = {"cells": cells, "metadata": {"language_info": {"name": "python"}}}
    document = parse(json.dumps(notebook).encode(), "a.ipynb")
    assert document.text == (
        "# 泵\ntext\n\n```python\n# no heading\n```\n\n```\n42\n```\n\n```\n7\n```"
    )
    assert [span.label for span in document.sections] == ["泵"]
    with pytest.raises(DocumentRejected, match="no list of cells"):
        parse(b'{"a": 1}', "a.ipynb")


def test_xml_data_prose_and_attacks() -> None:
    data = "<pumps><pump id='7'><name>JL</name><bar>6</bar></pump></pumps>"
    assert parse(data.encode(), "a.xml").text == "pump.id: 7\nname: JL\nbar: 6"
    prose = (
        "<?xml version='1.0' encoding='gb18030'?><book><chapter><title>总则</title>"
        "<para>员工的<b>年假</b>为十二天，请提前申请。</para></chapter></book>"
    )
    document = parse(prose.encode("gb18030"), "a.xml")
    assert document.text == "总则\n\n员工的年假为十二天，请提前申请。"
    assert [span.label for span in document.sections] == ["总则"]
    laughs = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><a>&y;</a>'
    external = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
    for text in (laughs, external, "<a>" * 300 + "</a>" * 300, "<a><b></a>", "no xml"):
        with pytest.raises(DocumentRejected) as caught:
            parse(text.encode(), "a.xml")
        assert caught.value.reason == "damaged"
    outside = "<!DOCTYPE a SYSTEM 'http://192.0.2.1/a.dtd'><a>text</a>"
    assert parse(outside.encode(), "a.xml").text == "a: text"


def test_rst_titles_are_sections_and_the_text_stays() -> None:
    text = (
        "=====\nGuide\n=====\n\n安装\n----\n\nText *here*.\n\n``make``\n--------\n\nEnd\n\n---\n\n"
        "short\n-\n"
    )
    document = parse(text.encode(), "a.rst")
    assert document.text == text
    assert document.title == "Guide"
    assert [span.label for span in document.sections] == [
        "Guide", "Guide > 安装", "Guide > make",
    ]  # fmt: skip
