"""Answers in pieces: both answerers, and the chain around them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_chat import HITS, FakeChat, Sure, analyzer
from glm_serving import scripted, write_chatty
from hypothesis import given, settings
from langchain_core.messages import SystemMessage
from test_rag_citer import _CUTS, _TEXTS, cut

from rag.answering import DEFAULT_OPTIONS, AnswerOptions, AnswerPiece, TextDelta
from rag.build import build_rag
from rag.chain import Chain, Generating, Question, Retrieved
from rag.chat_models import ChatGLM3
from rag.config import Settings
from rag.errors import ModelError, QueryError, QueueFull, UsageError
from rag.extract import ExtractiveAnswerer
from rag.glm.load import load_chatglm3
from rag.prompt import Message, PromptTemplate
from rag.refusal import refusal_text
from rag.schema import Answer, Hit
from rag.testing import check_answerer, check_pieces

QUESTION = "How heavy is the JL-200 pump?"
SUPPORTED = "The JL-200 pump weighs 18,600 g without its motor [1]. "


def generating(model: Any, **more: Any) -> Generating:
    return Generating(
        model, judge=Sure(), template=PromptTemplate(), count_tokens=lambda text: len(text.split()),
        budget=2000, analyzer=analyzer(), **more,
    )  # fmt: skip


def deltas(pieces: list[AnswerPiece]) -> list[str]:
    return [piece.text for piece in pieces if isinstance(piece, TextDelta) and piece.text]


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [QUESTION, "陪产假有几天？", "How do I boil an egg?", "?"])
@pytest.mark.parametrize("hits", [HITS, [], HITS[:1] * 9])
def test_the_extractive_answerer_keeps_the_contract(question: str, hits: list[Hit]) -> None:
    check_answerer(ExtractiveAnswerer(analyzer()), question, hits)
    every = AnswerOptions("Be brief.", 1, 0.5, 0.5, 1)
    assert check_answerer(ExtractiveAnswerer(analyzer()), question, hits, options=every).text


@pytest.mark.parametrize(
    "text",
    [
        SUPPORTED, f"{SUPPORTED}Bananas are yellow [1]. {SUPPORTED}年假为12天【2】。", "Yes",
        f"{refusal_text('en')} Sorry.", f"{refusal_text('en')} {SUPPORTED}", "The documents",
        f"\n\n {SUPPORTED}\n\n- one\n- two [2]\n\n| a | b |\n",
        f"It says [[1]2] and [9]. {SUPPORTED}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("lengths", [[1], [3, 8], [1000]])
def test_the_generating_answerer_keeps_the_contract(text: str, lengths: list[int]) -> None:
    model = FakeChat(pieces=cut(text, lengths))
    answer = check_answerer(generating(model), QUESTION, HITS, [Message("user", "Hi")])
    assert answer.tokens == {"input": 7, "output": 3}
    assert answer.confidence == 0.9
    assert model.open == 0


def test_what_the_judge_refuses_is_streamed_as_a_refusal() -> None:
    model = FakeChat(pieces=["No."])
    sceptic = ExtractiveAnswerer(analyzer(), threshold=1.0)
    answerer = Generating(
        model, judge=sceptic, template=PromptTemplate(), count_tokens=len, budget=9999,
        analyzer=analyzer(),
    )  # fmt: skip
    answer = check_answerer(answerer, QUESTION, HITS)
    assert answer.text == refusal_text("en")
    assert model.asked == []


@settings(deadline=None)
@given(_TEXTS, _CUTS)
def test_any_output_is_streamed_as_it_is_answered(text: str, lengths: list[int]) -> None:
    answerer = generating(FakeChat(pieces=cut(text, lengths)))
    try:
        whole = answerer.answer("?", HITS)
    except ModelError:
        given_out: list[AnswerPiece] = []
        with pytest.raises(ModelError, match="empty answer"):
            given_out.extend(answerer.stream("?", HITS))
        assert deltas(given_out) == []
        return
    assert check_pieces(list(answerer.stream("?", HITS))) == whole


# -- sentence by sentence --------------------------------------------------------------------------


def test_a_sentence_is_given_before_the_next_is_written() -> None:
    model = FakeChat(pieces=cut(f"{SUPPORTED}Bananas are yellow [1]. {SUPPORTED}", [4]))
    pieces = generating(model).stream(QUESTION, HITS)
    first = next(piece for piece in pieces if isinstance(piece, TextDelta) and piece.text)
    assert first == TextDelta("The JL-200 pump weighs 18,600 g without its motor. [1]")
    assert model.said <= len(SUPPORTED) // 4 + 2
    rest = list(pieces)
    assert deltas(rest) == [
        " Bananas are yellow.", " The JL-200 pump weighs 18,600 g without its motor. [1]"
    ]  # fmt: skip
    answer = rest[-1]
    assert isinstance(answer, Answer)
    assert answer.unsupported == ("Bananas are yellow.",)
    assert len(answer.citations) == 1


def test_stopping_early_closes_the_models_stream() -> None:
    model = FakeChat(pieces=[SUPPORTED] * 50)
    pieces: Any = generating(model).stream(QUESTION, HITS)
    next(pieces)
    assert model.open == 1
    pieces.close()
    assert model.open == 0
    assert model.said < 5
    chain = Chain(lambda *_: HITS, generating(model), lambda *_: None, 100)
    with closing(chain.stream_answer(Question(QUESTION))) as steps:  # type: ignore[type-var]
        next(steps), next(steps)
        assert model.open == 1
    assert model.open == 0


def test_stopping_early_frees_the_place_in_the_batch(tmp_path: Path) -> None:
    loaded, script = scripted(tmp_path, "\n" + SUPPORTED * 50)

    class Slow:
        config, dtype, device = script.config, script.dtype, script.device

        def __call__(self, **inputs: Any) -> Any:
            time.sleep(0.002)
            return script(**inputs)

    slow: Any = Slow()
    shape = replace(loaded.shape, context=30_000)
    model = ChatGLM3.of(replace(loaded, model=slow, shape=shape), batch_size=1, queue_size=0)
    answerer = generating(model)
    pieces: Any = answerer.stream(QUESTION, HITS)
    assert next(piece.text for piece in pieces if piece.text).endswith("[1]")
    with pytest.raises(QueueFull):
        list(answerer.stream(QUESTION, HITS))
    pieces.close()
    engine = model.load().engine
    until = time.monotonic() + 20
    while engine.load and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.load == 0
    short = AnswerOptions(max_tokens=40)
    assert list(answerer.stream(QUESTION, HITS, options=short))
    model.close()


@pytest.fixture
def random_model(tmp_path: Path) -> Iterator[ChatGLM3]:
    loaded = load_chatglm3(write_chatty(tmp_path))
    shape = replace(loaded.shape, context=8000)
    model = ChatGLM3.of(replace(loaded, shape=shape), do_sample=False, max_tokens=60)
    yield model
    model.close()


def test_chatglm3_keeps_the_contract(random_model: ChatGLM3) -> None:
    answer = check_answerer(generating(random_model), QUESTION, HITS)
    assert answer.finish == "length"
    assert answer.tokens["output"] == 60


def test_a_model_that_breaks_off_is_an_error_after_what_was_certain() -> None:
    model = FakeChat(pieces=[SUPPORTED, SUPPORTED, "x"], fails_after=2)
    pieces = generating(model).stream(QUESTION, HITS)
    assert isinstance(next(pieces), TextDelta)
    with pytest.raises(ConnectionError):
        list(pieces)
    assert model.open == 0


# -- options ---------------------------------------------------------------------------------------


def asked(options: AnswerOptions, **more: Any) -> tuple[str, dict[str, Any]]:
    """The system message and the keyword arguments that the model gets, streamed or not."""
    model = FakeChat(pieces=["Yes."])
    answerer = generating(model, **more)
    answerer.answer(QUESTION, HITS, options=options)
    list(answerer.stream(QUESTION, HITS, options=options))
    (first, given_first), (second, given_second) = model.asked
    assert first == second
    assert given_first == given_second
    (system,) = [turn for turn in first if isinstance(turn, SystemMessage)]
    return str(system.content), given_first


def test_options_reach_the_model() -> None:
    system, given_ = asked(DEFAULT_OPTIONS)
    assert given_ == {}
    options = AnswerOptions("Be rude.", 30, 0.7, 0.9, 5)
    told, given_ = asked(options, max_tokens=100)
    assert given_ == {"max_tokens": 30, "temperature": 0.7, "top_p": 0.9, "seed": 5}
    assert told.startswith(system)
    assert told.endswith("Be rude.")


def test_max_tokens_is_only_ever_lowered() -> None:
    assert asked(AnswerOptions(max_tokens=500), max_tokens=100)[1] == {"max_tokens": 100}
    assert asked(AnswerOptions(max_tokens=50), max_tokens=100)[1] == {"max_tokens": 50}
    assert asked(DEFAULT_OPTIONS, max_tokens=100)[1] == {}


def test_chatglm3_follows_the_options(random_model: ChatGLM3) -> None:
    answerer = generating(random_model, max_tokens=60)

    def text(**options: Any) -> str:
        return answerer.answer(QUESTION, HITS, options=AnswerOptions(**options)).text

    assert check_answerer(
        answerer, QUESTION, HITS, options=AnswerOptions(max_tokens=7)
    ).tokens["output"] == 7  # fmt: skip
    assert text(seed=1) == text(seed=2) == text(temperature=0) == text()
    warm = text(temperature=1.5, seed=1)
    assert warm == text(temperature=1.5, seed=1)
    assert warm != text()
    check_answerer(answerer, QUESTION, HITS, options=AnswerOptions(temperature=1.5, seed=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0},
        {"temperature": float("inf")}, {"top_p": 1.1}, {"seed": 2**63},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} = .* Expected"):
        AnswerOptions(**wrong)


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", "length"), ("stop", "stop"), ("", "stop")]
)
def test_an_answer_that_was_cut_off_says_so(reason: str, finish: str) -> None:
    answerer = generating(FakeChat(pieces=["Yes", " it", " is"], finish=reason, usage=False))
    answer = check_answerer(answerer, QUESTION, HITS)
    assert answer.finish == finish
    assert answer.tokens == {}


# -- the chain -------------------------------------------------------------------------------------


def test_the_chain_yields_what_was_found_first() -> None:
    answerer = generating(FakeChat(pieces=[SUPPORTED, SUPPORTED]))
    chain = Chain(lambda query, top_k: HITS[:top_k], answerer, lambda cited: 77, 100)
    question = Question(f" {QUESTION}\n", top_k=1)
    found, *pieces = chain.stream_answer(question)
    assert isinstance(found, Retrieved)
    assert found.hits == HITS[:1]
    assert found.question.text == QUESTION
    answer = pieces[-1]
    assert isinstance(answer, Answer)
    assert [cited.page for cited in answer.citations] == [77]
    assert set(answer.timings) == {"retrieve", "answer"}
    assert check_pieces(pieces) == replace(chain.runnable().invoke(question), timings={})  # type: ignore[arg-type]


def test_the_readers_time_is_not_the_answerers() -> None:
    answerer = generating(FakeChat(pieces=[SUPPORTED] * 3))
    chain = Chain(lambda *_: HITS, answerer, lambda *_: None, 100)
    slept = 0.0
    answer: Any = None
    for piece in chain.stream_answer(Question(QUESTION)):
        answer = piece
        time.sleep(0.5)
        slept += 0.5
    assert answer.timings["answer"] < slept / 2


def test_a_question_that_is_none_yields_nothing() -> None:
    chain = Chain(lambda *_: HITS, generating(FakeChat(pieces=["x"])), lambda *_: None, 100)
    with pytest.raises(QueryError, match="empty"):
        next(chain.stream_answer(Question("?!")))


def test_a_store_streams_what_it_answers(samples_home: Path) -> None:
    opened = build_rag(Settings(home=samples_home)).open("samples")
    for question in ("Who is supposed to use the yellow locks?", "红烧肉怎么做才不腻？"):
        found, *pieces = opened.ask_stream(question, top_k=3)
        assert isinstance(found, Retrieved)
        assert len(found.hits) <= 3
        assert check_pieces(pieces) == replace(opened.ask(question, top_k=3), timings={})  # type: ignore[arg-type]
    assert opened.ask(question, options=AnswerOptions(max_tokens=5)).refused
