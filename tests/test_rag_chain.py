"""The chain end to end, with the extractive answerer and with a real HTTP endpoint on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from chat_endpoint import Endpoint, listening

from rag.answering import AnswerOptions, TextDelta
from rag.build import build_rag
from rag.chain import Question, checked_question
from rag.config import Settings
from rag.errors import ModelError, QueryError
from rag.prompt import Message
from rag.testing import check_pieces

QUESTION = "Who is supposed to use the yellow locks?"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with listening() as made:
        yield made


def settings(home: Path, url: str) -> Settings:
    return Settings(
        home=home, store="samples", generator="openai", generator_url=url, generator_model="m"
    )


def test_the_chain_is_a_langchain_runnable(samples_home: Path) -> None:
    from langchain_core.runnables import Runnable

    chain = build_rag(Settings(home=samples_home)).open("samples").chain()
    assert isinstance(chain, Runnable)
    first, second = chain.batch([Question(QUESTION), Question("C3 控制器显示 E05 是什么故障？")])
    assert "Contractors" in first.text
    assert "压力变送器断线" in second.text
    assert set(first.timings) == {"retrieve", "answer"}


def test_a_generated_answer_is_cited_and_checked(samples_home: Path, endpoint: Endpoint) -> None:
    endpoint.reply = "Contractors use the yellow locks [1]. They were made on the moon [1]."
    rag = build_rag(settings(samples_home, endpoint.url))
    answer = rag.open("samples").ask(QUESTION)
    (citation,) = answer.citations
    assert citation.file == "safety/lockout-tagout-en.txt"
    text = rag.catalog.get("samples").document(citation.file).text
    assert text[citation.start : citation.end] == citation.quote
    assert "ontractors" in citation.quote
    assert answer.unsupported == ("They were made on the moon.",)
    assert answer.tokens == {"input": 7, "output": 3}
    messages = endpoint.requests[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert QUESTION in messages[-1]["content"]
    assert "ellow" in messages[-1]["content"]


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_an_endpoint_streams_what_it_answers(
    samples_home: Path, endpoint: Endpoint, finish: str
) -> None:
    endpoint.reply = "Contractors use the yellow locks [1]. They were made on the moon [1]."
    endpoint.finish = finish
    opened = build_rag(settings(samples_home, endpoint.url)).open("samples")
    options = AnswerOptions("Be brief.", 30, 0.7, 0.9, 5)
    _, *pieces = opened.ask_stream(QUESTION, options=options)
    answer = check_pieces(pieces)  # type: ignore[arg-type]
    assert answer == replace(opened.ask(QUESTION, options=options), timings={})
    assert answer.finish == finish
    assert answer.tokens == {"input": 7, "output": 3}
    given = [piece.text for piece in pieces if isinstance(piece, TextDelta)]
    assert list(filter(None, given)) == [
        "Contractors use the yellow locks. [1]", " They were made on the moon."
    ]  # fmt: skip
    for sent in endpoint.requests:
        assert (sent["temperature"], sent["top_p"], sent["seed"]) == (0.7, 0.9, 5)
        assert sent["max_completion_tokens"] == 30
        assert sent["messages"][0]["content"].endswith("Be brief.")


def _text(piece: object) -> bool:
    return isinstance(piece, TextDelta) and piece.text != ""


def test_an_endpoint_that_breaks_off_is_one_line(samples_home: Path, endpoint: Endpoint) -> None:
    endpoint.reply = "Contractors use the yellow locks [1]. They were made on the moon [1]."
    endpoint.breaks_off = True
    opened = build_rag(settings(samples_home, endpoint.url)).open("samples")
    pieces = opened.ask_stream(QUESTION)
    next(pieces)
    assert next(filter(_text, pieces)) == TextDelta("Contractors use the yellow locks. [1]")
    with pytest.raises(ModelError, match="Cannot reach the generator"):
        list(pieces)


def test_a_stream_is_cut_off_where_it_is_left(samples_home: Path, endpoint: Endpoint) -> None:
    endpoint.reply = "Contractors use the yellow locks [1]. " * 2000
    rag = build_rag(settings(samples_home, endpoint.url))
    with closing(rag.open("samples").ask_stream(QUESTION)) as pieces:  # type: ignore[type-var]
        assert isinstance([next(pieces), next(pieces)][1], TextDelta)
    assert rag.talker.say([Message("user", "Hi")]).text == endpoint.reply


def test_no_evidence_asks_no_model(samples_home: Path, endpoint: Endpoint) -> None:
    answer = (
        build_rag(settings(samples_home, endpoint.url)).open("samples").ask("红烧肉怎么做才不腻？")
    )
    assert answer.refused
    assert endpoint.requests == []


def test_a_model_that_refuses_is_a_refusal(samples_home: Path, endpoint: Endpoint) -> None:
    endpoint.reply = "The documents hold no answer to this question."
    answer = build_rag(settings(samples_home, endpoint.url)).open("samples").ask(QUESTION)
    assert answer.refused
    assert answer.citations == ()


@pytest.mark.parametrize(
    ("status", "message"), [(404, "answered 404"), (401, "refused the key"), (400, "answered 400")]
)
def test_an_endpoint_that_fails_is_one_line(
    samples_home: Path, endpoint: Endpoint, status: int, message: str
) -> None:
    endpoint.status = status
    opened = build_rag(settings(samples_home, endpoint.url)).open("samples")
    with pytest.raises(ModelError, match=message):
        opened.ask(QUESTION)
    with pytest.raises(ModelError, match=message):
        list(opened.ask_stream(QUESTION))


def test_an_endpoint_that_is_not_there_is_one_line(samples_home: Path) -> None:
    opened = build_rag(settings(samples_home, "http://127.0.0.1:9/v1")).open("samples")
    with pytest.raises(ModelError, match="Cannot reach the generator"):
        opened.ask(QUESTION)
    with pytest.raises(ModelError, match="Cannot reach the generator"):
        list(opened.ask_stream(QUESTION))


@pytest.mark.parametrize(
    "body", [b"<html>Welcome</html>", b'{"choices": []}', b"[]", b'"x"', b"{}"]
)
def test_what_is_no_chat_endpoint_is_one_line(
    samples_home: Path, endpoint: Endpoint, body: bytes
) -> None:
    endpoint.body = body
    opened = build_rag(settings(samples_home, endpoint.url)).open("samples")
    with pytest.raises(ModelError, match="no OpenAI-compatible chat endpoint"):
        opened.ask(QUESTION)
    with pytest.raises(ModelError, match="no OpenAI-compatible chat endpoint"):
        list(opened.ask_stream(QUESTION))


@pytest.mark.parametrize("reply", ["  ", "[1]", "[1][2].\n"])
def test_an_empty_reply_is_a_fault(samples_home: Path, endpoint: Endpoint, reply: str) -> None:
    endpoint.reply = reply
    opened = build_rag(settings(samples_home, endpoint.url)).open("samples")
    with pytest.raises(ModelError, match="empty answer"):
        opened.ask(QUESTION)


def test_a_question_is_cleaned_not_changed() -> None:
    assert checked_question("  What\tis\n\x07 this? ", 50) == "What is this?"
    assert checked_question("温度\ud800是多少？", 50) == "温度\ufffd是多少？"
    assert checked_question("\ud83d\ude00 ok", 50) == "😀 ok"
    with pytest.raises(QueryError, match="at most 3"):
        checked_question("four", 3)
    with pytest.raises(QueryError, match="empty"):
        checked_question("?!", 50)
