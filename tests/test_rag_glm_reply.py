"""Replies: text and tool calls told apart while they are written; calls are data, never run."""

from __future__ import annotations

import ast
import inspect
import keyword
from pathlib import Path
from typing import Any

import pytest
from glm_tokenizers import write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ToolCallError
from rag.glm import reply
from rag.glm.data import tool_call
from rag.glm.reply import MOST_CALL_CHARS, Call, ReplyReader, parse_call
from rag.glm.tokenizer import ChatGLM3Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3Tokenizer:
    return load_tokenizer(write_model(tmp_path_factory.mktemp("reply")))


def ids_of(tokenizer: ChatGLM3Tokenizer, *turns: str) -> list[int]:
    ids: list[int] = []
    for number, turn in enumerate(turns):
        head, line, rest = turn.partition("\n")
        ids += [tokenizer.control["<|assistant|>"]] if number else []
        ids += tokenizer.encode(head + line) + tokenizer.encode(rest)
    return ids


def read_text(tokenizer: ChatGLM3Tokenizer, text: str, **how: Any) -> tuple[str, list[Call]]:
    """As if the model had written it in one go."""
    reader = ReplyReader(tokenizer, **how)
    return "".join([*map(reader.push, tokenizer.encode(text)), reader.end()]), reader.calls


def read(tokenizer: ChatGLM3Tokenizer, *turns: str, **how: Any) -> tuple[str, list[Call]]:
    reader = ReplyReader(tokenizer, **how)
    text = "".join([*map(reader.push, ids_of(tokenizer, *turns)), reader.end()])
    return text, reader.calls


def test_the_blank_first_line_and_the_space_around_are_left_out(small: ChatGLM3Tokenizer) -> None:
    assert read(small, "\n你好 world \n") == ("你好 world", [])
    assert read(small, " \n  a\n b ", tools=["t"]) == ("a\n b", [])


def test_text_comes_as_it_is_written(small: ChatGLM3Tokenizer) -> None:
    reader = ReplyReader(small, tools=["weather"])
    made = [reader.push(id_) for id_ in ids_of(small, "\nhello world")]
    assert made == ["", "", "hello", " world"]


def test_without_tools_everything_is_text(small: ChatGLM3Tokenizer) -> None:
    text = "weather\n```python\ntool_call(a=1)\n```"
    assert read_text(small, text) == (text, [])


def test_a_call_behind_text(small: ChatGLM3Tokenizer) -> None:
    turns = ("\nI look it up.", "weather\n ```python\ntool_call(city='北京', days=2)\n```")
    text, (call,) = read(small, *turns, tools=["weather"])
    assert (text, call.name, call.known) == ("I look it up.", "weather", True)
    assert call.parameters() == {"city": "北京", "days": 2}


def test_two_calls(small: ChatGLM3Tokenizer) -> None:
    turns = ("a\n" + tool_call({"x": 1}), "b\n" + tool_call({}))
    text, calls = read(small, *turns, tools=["a", "b"])
    assert text == ""
    assert [(call.name, call.parameters()) for call in calls] == [("a", {"x": 1}), ("b", {})]


def test_an_unknown_tool_is_told_and_not_called(small: ChatGLM3Tokenizer) -> None:
    _, (call,) = read(small, "rm\n" + tool_call({"x": 1}), tools=["weather"])
    assert (call.name, call.known) == ("rm", False)
    with pytest.raises(ToolCallError, match="unknown tool: 'rm'"):
        call.parameters()


@pytest.mark.parametrize("name", ["2d_plot", "-x", "my tool", "工具", "n" * 64, "搜索 web"])
@pytest.mark.parametrize("behind", ["", " "])
def test_a_tool_is_known_by_whatever_name_it_was_told(
    small: ChatGLM3Tokenizer, name: str, behind: str
) -> None:
    text, (call,) = read(small, f"{name}{behind}\n" + tool_call({"x": 1}), tools=["a", name])
    assert (text, call.name, call.parameters()) == ("", name, {"x": 1})


def test_an_unknown_tool_may_begin_with_a_digit(small: ChatGLM3Tokenizer) -> None:
    _, (call,) = read(small, "3d_plot\n" + tool_call({"x": 1}), tools=["2d_plot"])
    assert (call.name, call.known) == ("3d_plot", False)


def pushed(tokenizer: ChatGLM3Tokenizer, text: str, **how: Any) -> list[str]:
    """What each letter of an answer lets through."""
    reader = ReplyReader(tokenizer, **how)
    ids = [id_ for letter in text for id_ in tokenizer.encode(letter)[1:]]
    assert len(ids) == len(text)
    return [reader.push(id_) for id_ in ids]


@pytest.mark.parametrize(
    "text",  # the last letter tells that it is text
    [
        "Yes,",
        "Yes\nb",
        "Yes\n\nb",
        "Yes\n``x",
        "Yes\n```py\nx",
        "Yes\n```python\ntool_calls",
        "Yes\ntool_callx",
        "n" * 65,
    ],
)
def test_text_streams_as_soon_as_it_can_be_no_call(small: ChatGLM3Tokenizer, text: str) -> None:
    assert pushed(small, text, tools=["tool"]) == [""] * (len(text) - 1) + [text]
    assert pushed(small, text + "x", tools=["tool"])[-1] == "x"


@pytest.mark.parametrize("space", [" ", "\n"])
def test_endless_white_space_is_not_held_for_ever(small: ChatGLM3Tokenizer, space: str) -> None:
    reader = ReplyReader(small, tools=["tool"], stops=[space * 9])
    for id_ in ids_of(small, "Yes\n" + space * 200):
        reader.push(id_)
    assert reader.stopped


LINES = st.lists(
    st.sampled_from(["Yes", "tool", "tools", "2", "a b", "你", " ", "", "```python", "`", "```"])
    | st.text(alphabet="ab` _", max_size=6),
    max_size=6,
).map("\n".join).filter(lambda text: text.partition("\n")[0].strip() != "tool")  # fmt: skip


@given(LINES, st.lists(st.sampled_from(["\n", "a", "```", "s\n", "b b", "你"]), max_size=2))
def test_tools_change_nothing_in_text_and_where_it_stops(
    small: ChatGLM3Tokenizer, text: str, stops: list[str]
) -> None:
    plain, told = ReplyReader(small, stops=stops), ReplyReader(small, stops=stops, tools=["tool"])
    made = [
        "".join([*map(reader.push, small.encode(text)), reader.end()]) for reader in (plain, told)
    ]
    assert made[0] == made[1]
    assert (told.stopped, told.calls) == (plain.stopped, [])


def test_a_call_that_is_cut_off(small: ChatGLM3Tokenizer) -> None:
    for source in ("", "tool_call(x=", tool_call({"x": 1})):
        reader = ReplyReader(small, tools=["a"])
        for id_ in ids_of(small, "a\n" + source):
            reader.push(id_)
        assert reader.end(cut=True) == ""
        (call,) = reader.calls
        with pytest.raises(ToolCallError, match="cut off"):
            call.parameters()


@pytest.mark.parametrize("text", ["Yes\nbecause it is so", "Yes", "a b: c\nd", "x" * 200 + "\ny"])
def test_text_with_a_short_first_line_stays_text(small: ChatGLM3Tokenizer, text: str) -> None:
    assert read_text(small, text, tools=["weather"]) == (text, [])


@given(st.text(alphabet="ab \n你", max_size=30), st.booleans())
def test_no_text_is_lost(small: ChatGLM3Tokenizer, text: str, tools: bool) -> None:
    made, calls = read(small, "\n" + text, tools=["tool"] if tools else [])
    assert (made, calls) == (small.decode(small.encode(text)).strip(), [])


def test_stop_strings_end_the_text_and_not_a_call(small: ChatGLM3Tokenizer) -> None:
    reader = ReplyReader(small, stops=["wor"])
    made = "".join(map(reader.push, ids_of(small, "\nhello world"))) + reader.end()
    assert (made, reader.stopped) == ("hello", "wor")
    text, calls = read(small, "a\n" + tool_call({"x": "wor"}), tools=["a"], stops=["wor"])
    assert (text, calls[0].parameters()) == ("", {"x": "wor"})


@pytest.mark.parametrize("tools", [[], ["tool"]])
@pytest.mark.parametrize("turn", ["\nfirst\nsecond", "\n \nfirst\nsecond"])
def test_a_stop_string_is_not_met_in_what_is_left_out(
    small: ChatGLM3Tokenizer, tools: list[str], turn: str
) -> None:
    assert read(small, turn, tools=tools, stops=["\n"]) == ("first", [])
    text, _ = read(small, "\na", "\nb\nc", tools=tools, stops=["\n"])
    assert text == "a\nb"


# -- tool calls ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(
        st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name)
)


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_what_the_official_format_writes_is_read_back(parameters: dict[str, Any]) -> None:
    assert parse_call(tool_call(parameters)) == parameters


PIECES = st.sampled_from(
    [
        *(
            "tool_call(",
            ")",
            "```python\n",
            "\n```",
            "a=",
            "1",
            ",",
            "'x'",
            "[",
            "]",
            "{",
            "}",
            ":",
        ),
        *("__import__('os')", ".system('false')", "lambda: ", "f'{1}'", "**", "{'a': 1}", "exec"),
        *("(", "\\", "\0", "for x in ", "\n", "…", "b'x'", "1e999", "NaN", "await ", ":="),
        *("-", ":"),
    ]
)


@settings(max_examples=200)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=14).map("".join)))
def test_anything_is_parameters_or_a_named_error(source: str) -> None:
    try:
        found = parse_call(source)
    except ToolCallError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(found, dict)


@pytest.mark.parametrize(
    "source",
    [
        "tool_call(a=__import__('os').system('touch ran'))",
        "tool_call(__import__('os').system('touch ran'))",
        "open('ran', 'w')",
        "tool_call(a=open('ran', 'w'))",
        "tool_call(a=f\"{open('ran', 'w')}\")",
        "tool_call(a=[x for x in [open('ran', 'w')]])",
        "tool_call(**{'a': 1})",
        "tool_call(a=1, a=2)",
        "tool_call(a={1, 2})",
        "tool_call(a=b'x')",
        "tool_call(a=1e999)",
        '{"a": NaN}',
        '{"a": 1',
        "[1]",
        "",
        "tool_call(a=" + "-" * 99_000 + "1)",
        "tool_call(a=" + "[" * 40_000,
        "tool_call(a=" + "1+" * 40_000 + "1)",
        "tool_call(a=" + "9" * 9_000 + ")",
        '{"a":' * 20_000,
        " " * MOST_CALL_CHARS + "tool_call()",
    ],
)
def test_nothing_is_run(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolCallError, match="cannot be read"):
        parse_call(source)
    assert list(tmp_path.iterdir()) == []


def test_the_parser_only_ever_evaluates_literals() -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse(inspect.getsource(reply)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called.isdisjoint({"eval", "exec", "compile", "__import__", "getattr"})
