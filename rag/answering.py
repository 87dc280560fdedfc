"""What an answerer is: what it may be told, the pieces it streams, and its protocol.

The answerers are rag.extract, which quotes, and rag.chain's `Generating`, which has a chat model
write. Whatever implements `Answerer` must pass rag.testing.check_answerer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rag.errors import UsageError
from rag.schema import Answer, Hit

if TYPE_CHECKING:
    from rag.prompt import Message


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How one answer is to be written. None leaves a value as it is set for all answers.

    The extractive answerer quotes and does not write: it follows `standalone` only.

    Attributes:
        instructions: What the caller wants in addition, in plain words; "" for nothing.
        max_tokens: Longest answer, tokens, >= 1. It lowers generator_max_tokens, never raises it.
        temperature: >= 0; 0 takes the likeliest token always.
        top_p: In (0, 1]: share of the probability that is left to choose from.
        seed: Makes sampling repeatable, where the model can; 64 bits, signed.
        standalone: The question put so that it stands alone, for judging and quoting; "" where
            the question does. Refusals keep the language of the question itself.

    Raises:
        UsageError: If a value is out of range.
    """

    instructions: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    standalone: str = ""

    def __post_init__(self) -> None:
        most, heat, share, seed = self.max_tokens, self.temperature, self.top_p, self.seed
        for name, fits, expected in (
            ("max_tokens", most is None or most >= 1, "1 or more"),
            ("temperature", heat is None or 0 <= heat < float("inf"), "0 or more"),
            ("top_p", share is None or 0 < share <= 1, "above 0, at most 1"),
            ("seed", seed is None or -(2**63) <= seed < 2**63, "of 64 bits"),
        ):
            if not fits:
                raise UsageError(
                    f"{name} = {getattr(self, name)} is not allowed.",
                    do=f"Expected a number {expected}.",
                )


DEFAULT_OPTIONS = AnswerOptions()
"""Everything as it is set."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next stretch of an answer's text: it is certain and will not change.

    It is "" while a model writes what is not certain yet, so that a reader can stop in between.
    """

    text: str


AnswerPiece: TypeAlias = TextDelta | Answer
"""What an answer is streamed as: deltas, then the whole."""


class Answerer(Protocol):
    """Turns a question and passages into an answer."""

    def answer(
        self,
        question: str,
        hits: Sequence[Hit],
        history: Sequence[Message] = (),
        *,
        options: AnswerOptions = DEFAULT_OPTIONS,
    ) -> Answer:
        """Answer from the passages alone, or refuse; retrieval and timings are the chain's."""
        ...

    def stream(
        self,
        question: str,
        hits: Sequence[Hit],
        history: Sequence[Message] = (),
        *,
        options: AnswerOptions = DEFAULT_OPTIONS,
    ) -> Iterator[AnswerPiece]:
        """Do the same in pieces: deltas as they become certain, last the `Answer`.

        The deltas joined are exactly its text. Their marks [n] count its citations from 1; a mark
        that does not hold is in none. Closing the iterator ends the work for it.
        """
        ...
