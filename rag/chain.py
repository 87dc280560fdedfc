"""The LangChain chain: check the question, retrieve, judge the evidence, answer, cite.

Both answerers (the extractive one, and a chat model behind the prompt) go through it and give the
same `Answer`. It names no concrete index, embedder or model: rag.build passes them in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from langchain_core.runnables import Runnable, RunnableLambda

from rag.citations import cite, parse_marks
from rag.errors import ModelError, QueryError
from rag.prompt import Message, PromptTemplate, build_prompt
from rag.schema import Answer, Hit

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
    """

    text: str
    top_k: int = 8
    history: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A question with the passages found for it, best first."""

    question: Question
    hits: list[Hit]
    seconds: float


class Answerer(Protocol):
    """Turns a question and passages into an answer."""

    def answer(self, question: str, hits: Sequence[Hit], history: Sequence[Message] = ()) -> Answer:
        """Answer from the passages alone, or refuse; retrieval and timings are the chain's."""
        ...


def build_chain(
    search: Callable[[str, int], list[Hit]],
    answerer: Answerer,
    *,
    page_of: Callable[[str, int], int | None],
    max_question_chars: int,
) -> Runnable[Question, Answer]:
    """Compose the chain.

    Args:
        search: Finds up to top_k passages for a query, best first.
        answerer: Writes the answer.
        page_of: Tells the page of a character of a file: a chunk may run over several pages.
        max_question_chars: Longer questions are refused.

    Returns:
        A runnable; `invoke` raises QueryError for an unusable question and whatever `search`
        and `answerer` raise. The answer's timings hold "retrieve" and "answer", in seconds.
    """

    def check(question: Question) -> Question:
        return replace(question, text=checked_question(question.text, max_question_chars))

    def retrieve(question: Question) -> Retrieved:
        begin = time.perf_counter()
        hits = search(question.text, question.top_k)
        return Retrieved(question, hits, time.perf_counter() - begin)

    def answer(found: Retrieved) -> Answer:
        begin = time.perf_counter()
        made = answerer.answer(found.question.text, found.hits, found.question.history)
        spent = {"retrieve": found.seconds, "answer": time.perf_counter() - begin}
        return replace(
            made,
            citations=tuple(
                replace(found, page=page_of(found.file, found.start)) if found.page else found
                for found in made.citations
            ),
            timings={**spent, **made.timings},
        )

    return (
        RunnableLambda(check, name="check")
        | RunnableLambda(retrieve, name="retrieve")
        | RunnableLambda(answer, name="answer")
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
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in whole).split())
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
        analyzer: Splits sentences and passages into terms for the citation check.
        errors: Wraps each call of the model; turns its faults into ModelError.
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
        errors: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._model = model
        self._judge = judge
        self._template = template
        self._count = count_tokens
        self._budget = budget
        self._analyzer = analyzer
        self._errors = errors

    def answer(self, question: str, hits: Sequence[Hit], history: Sequence[Message] = ()) -> Answer:
        """Answer with the model, or refuse without asking it when the evidence is too thin.

        Raises:
            ModelError: If the model cannot be reached or returns no text.
        """
        judged = self._judge.answer(question, hits, history)
        if judged.refused:
            return judged
        prompt = build_prompt(
            question, hits, history, template=self._template,
            count_tokens=self._count, budget=self._budget,
        )  # fmt: skip
        with self._errors():
            reply = self._model.invoke([(turn.role, turn.content) for turn in prompt.messages])
        text = reply.text
        if not any(map(str.isalnum, parse_marks(text).text)):
            raise ModelError("The generator returned an empty answer.", do="Check generator_model.")
        usage = getattr(reply, "usage_metadata", None) or {}
        shown = hits[: prompt.passages]
        made = cite(text, shown, analyzer=self._analyzer, question=question)
        tokens = {"input": usage.get("input_tokens", 0), "output": usage.get("output_tokens", 0)}
        return replace(
            made,
            confidence=judged.confidence,
            tokens=tokens if usage else {},
            dropped=prompt.dropped,
        )
