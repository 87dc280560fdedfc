"""The LangChain chain: check the question, retrieve, judge the evidence, answer, cite.

Both answerers (the extractive one, and a chat model behind the prompt) go through it and give the
same `Answer`. It names no concrete index, embedder or model: rag.build passes them in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable, RunnableLambda

from rag.answering import DEFAULT_OPTIONS, Answerer, AnswerOptions, AnswerPiece, TextDelta
from rag.citations import Citer, cite
from rag.condense import condense
from rag.errors import ModelError, QueryError
from rag.prompt import Message, Prompt, PromptTemplate, build_prompt, sound_text
from rag.schema import Answer, Citation, Hit
from rag.talk import Said, Talker

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from rag.index.analyze import Analyzer


@dataclass(frozen=True, slots=True)
class Question:
    """What the chain is asked.

    Attributes:
        text: The question.
        top_k: Passages to hand to the answerer, >= 1.
        history: Earlier turns, oldest first.
        options: How the answer is to be written; its `standalone` is what is searched for, and is
            made from the history where it is "".
    """

    text: str
    top_k: int = 8
    history: tuple[Message, ...] = ()
    options: AnswerOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A question with the passages found for it, best first, and the seconds that took."""

    question: Question
    hits: list[Hit]
    seconds: float


@dataclass(frozen=True, slots=True)
class Chain:
    """The steps from a question to an answer, at once or in pieces.

    Attributes:
        search: Finds up to top_k passages for a query, best first.
        answerer: Writes the answer.
        page_of: Tells the page on which a quote starts: a chunk may run over several pages.
        max_question_chars: Longer questions are refused.
        condense: Makes a question that stands alone from one and the conversation before it.
        expand: Widens passages for the answerer (rag.expand); what was found stays as it was.
    """

    search: Callable[[str, int], list[Hit]]
    answerer: Answerer
    page_of: Callable[[Citation], int | None]
    max_question_chars: int
    condense: Callable[[str, Sequence[Message]], str] = condense
    expand: Callable[[Sequence[Hit]], Sequence[Hit]] = tuple

    def runnable(self) -> Runnable[Question, Answer]:
        """Return the steps composed.

        `invoke` raises QueryError for an unusable question and whatever `search` and `answerer`
        raise. The answer's timings hold "retrieve" and "answer", in seconds.
        """
        return (
            RunnableLambda(self._check, name="check")
            | RunnableLambda(self._retrieve, name="retrieve")
            | RunnableLambda(self._answer, name="answer")
        )

    def stream_answer(self, question: Question) -> Iterator[Retrieved | AnswerPiece]:
        """Yield what was found, the answer's deltas, and the answer that `invoke` would return.

        Raises what `invoke` raises: for an unusable question before anything is yielded. Closing
        the iterator ends the answerer's work. The time that its reader takes is not counted.
        """
        found = self._retrieve(self._check(question))
        yield found
        asked = found.question
        begin = time.perf_counter()
        hits = self.expand(found.hits)
        spent = time.perf_counter() - begin
        pieces: Any = self.answerer.stream(asked.text, hits, asked.history, options=asked.options)
        with closing(pieces):
            while True:
                begin = time.perf_counter()
                piece: AnswerPiece | None = next(pieces, None)
                spent += time.perf_counter() - begin
                if piece is None:
                    return
                yield piece if isinstance(piece, TextDelta) else self._ended(piece, found, spent)

    def _check(self, question: Question) -> Question:
        text = checked_question(question.text, self.max_question_chars)
        options = question.options
        if question.history and not options.standalone:
            alone = self.condense(text, question.history)
            options = replace(options, standalone="" if alone == text else alone)
        return replace(question, text=text, options=options)

    def _retrieve(self, question: Question) -> Retrieved:
        begin = time.perf_counter()
        hits = self.search(question.options.standalone or question.text, question.top_k)
        return Retrieved(question, hits, time.perf_counter() - begin)

    def _answer(self, found: Retrieved) -> Answer:
        begin = time.perf_counter()
        asked = found.question
        hits = self.expand(found.hits)
        made = self.answerer.answer(asked.text, hits, asked.history, options=asked.options)
        return self._ended(made, found, time.perf_counter() - begin)

    def _ended(self, made: Answer, found: Retrieved, seconds: float) -> Answer:
        """The answer with the pages of its quotes, and timings."""
        return replace(
            made,
            citations=tuple(
                replace(cited, page=self.page_of(cited)) if cited.page else cited
                for cited in made.citations
            ),
            timings={"retrieve": found.seconds, "answer": seconds, **made.timings},
        )


def checked_question(text: str, max_chars: int) -> str:
    """Return the question as text that every part can take.

    Control characters become spaces, bytes that were not text become U+FFFD.

    Raises:
        QueryError: If nothing readable is left, or it is longer than max_chars.
    """
    if len(text) > max_chars:
        raise QueryError(
            f"The question has {len(text):,} characters; at most {max_chars:,} are read.",
            do="Shorten it, or raise max_question_chars.",
        )
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in sound_text(text)).split())
    if not any(c.isalnum() for c in cleaned):
        raise QueryError(
            "The question is empty: it holds no letter or digit.", do="Ask in Chinese or English."
        )
    return cleaned


class Generating:
    """The answerer that has a chat model write, then checks every citation.

    Args:
        model: Any LangChain chat model.
        judge: The evidence check: its refusal is final, its confidence is kept.
        template: The prompt.
        count_tokens: Counts tokens for the budget.
        budget: Room for the prompt, tokens.
        remedy: What makes that room larger, for messages.
        analyzer: Splits sentences and passages into terms for the citation check.
        errors: Wraps each call of the model; turns its faults into ModelError.
        max_tokens: Longest answer, which options cannot raise; None: anything goes.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        judge: Answerer,
        template: PromptTemplate,
        count_tokens: Callable[[str], int],
        budget: int,
        analyzer: Analyzer,
        remedy: str = "raise prompt_tokens",
        errors: Callable[[], AbstractContextManager[None]] = nullcontext,
        max_tokens: int | None = None,
    ) -> None:
        self._talker = Talker(model, errors=errors, max_tokens=max_tokens)
        self._judge = judge
        self._template = template
        self._count = count_tokens
        self._budget = budget
        self._remedy = remedy
        self._analyzer = analyzer

    def answer(
        self,
        question: str,
        hits: Sequence[Hit],
        history: Sequence[Message] = (),
        *,
        options: AnswerOptions = DEFAULT_OPTIONS,
    ) -> Answer:
        """Answer with the model, or refuse without asking it when the evidence is too thin.

        Raises:
            QueryError: If question and instructions do not fit into the prompt.
            ModelError: If the model cannot be reached or returns no text.
        """
        judged = self._judge.answer(question, hits, history, options=options)
        if judged.refused:
            return judged
        prompt = self._prompt(question, hits, history, options)
        said = self._talker.say(prompt.messages, _sampling(options))
        shown = hits[: prompt.passages]
        made = cite(said.text, shown, analyzer=self._analyzer, question=question)
        return _ended(made, said, prompt, judged)

    def stream(
        self,
        question: str,
        hits: Sequence[Hit],
        history: Sequence[Message] = (),
        *,
        options: AnswerOptions = DEFAULT_OPTIONS,
    ) -> Iterator[AnswerPiece]:
        """Answer sentence by sentence, as the model writes them, each with its checked marks.

        Raises:
            QueryError, ModelError: As `answer`; a model may also fail after some sentences.
        """
        judged = self._judge.answer(question, hits, history, options=options)
        if judged.refused:
            yield TextDelta(judged.text)
            yield judged
            return
        prompt = self._prompt(question, hits, history, options)
        citer = Citer(hits[: prompt.passages], analyzer=self._analyzer, question=question)
        said = Said("")
        given = 0
        pieces: Any = self._talker.stream(prompt.messages, _sampling(options))
        with closing(pieces):
            for piece in pieces:
                if isinstance(piece, Said):
                    said = piece
                else:
                    certain = citer.feed(piece.text)
                    given += len(certain)
                    yield TextDelta(certain)
        answer = _ended(citer.finish(), said, prompt, judged)
        if rest := answer.text[given:]:
            yield TextDelta(rest)
        yield answer

    def _prompt(
        self, question: str, hits: Sequence[Hit], history: Sequence[Message], options: AnswerOptions
    ) -> Prompt:
        return build_prompt(
            question, hits, history, template=self._template, instructions=options.instructions,
            count_tokens=self._count, budget=self._budget, remedy=self._remedy,
        )  # fmt: skip


def _sampling(options: AnswerOptions) -> AnswerOptions:
    """The options without the instructions: those are in the prompt."""
    return replace(options, instructions="", standalone="")


def _ended(made: Answer, said: Said, prompt: Prompt, judged: Answer) -> Answer:
    if not any(map(str.isalnum, made.text)):
        raise ModelError("The generator returned an empty answer.", do="Check generator_model.")
    return replace(
        made,
        confidence=judged.confidence,
        tokens=said.tokens,
        dropped=prompt.dropped,
        finish=said.finish,
    )
