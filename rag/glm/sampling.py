"""How the next tokens are chosen from logits: looked at together, chosen for each text by itself.

What is large stays on the model's device and is looked at once for a whole batch; the few likeliest
tokens of each text come to the CPU, where its own random numbers decide.

The official defaults are those of `chat` and `stream_chat` in the official modeling_chatglm.py:
do_sample, temperature 0.8, top_p 0.8, and max_length 8192 for prompt and answer together. top_k
is not named there; 50 is what transformers' `generate` then takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rag.errors import ConfigError, GenerationFailed

_COLDEST = 1e-30
"""A temperature below it is taken for it: float32 would make infinities of the logits."""

MOST_TOP_LOGPROBS = 20
"""Alternatives whose log-probability can be had for each token, as at OpenAI's endpoint."""

SHALLOW = 64
"""A depth at which many texts are looked at together."""

ALL = 2**31
"""A depth that takes the whole vocabulary."""


def is_whole(value: object) -> bool:
    """Return whether it is an int; a float would fail, or count past its limit, in mid-batch."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether it is a finite int or float."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        do_sample: False takes the likeliest token always; the rest is then not looked at.
        temperature: > 0; logits are divided by it.
        top_p: In (0, 1]; only the likeliest tokens that together have this probability are left.
        top_k: >= 0; only so many of the likeliest are left before top_p; 0 leaves all.
        seed: The same seed gives the same tokens from the same logits, whatever runs beside it;
            None draws one.

    Raises:
        ConfigError: If a value is out of range.
    """

    do_sample: bool = True
    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 50
    seed: int | None = None

    def __post_init__(self) -> None:
        top_k, seed = self.top_k, self.seed
        for name, fits, expected in (
            ("temperature", is_number(self.temperature) and self.temperature > 0, "above 0"),
            ("top_p", is_number(self.top_p) and 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", is_whole(top_k) and top_k >= 0, "0 or more, whole"),
            ("seed", seed is None or (is_whole(seed) and -(2**63) <= seed < 2**63), "of 64 bits"),
        ):
            if not fits:
                raise ConfigError(
                    f"{name} = {getattr(self, name)!r} is not allowed.",
                    do=f"Expected a number {expected}; do_sample=False for the likeliest token.",
                )


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token.

    Attributes:
        id: Its id.
        logprob: Natural logarithm of its probability before temperature and cuts, <= 0; None
            unless asked for.
        top: (id, logprob) of the likeliest tokens, likeliest first; as many as were asked for.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one text's logits, on the CPU.

    Attributes:
        best: The likeliest id; of equal ones the lowest, as `generate` takes it.
        ids: (k,) the likeliest ids, likeliest first.
        scores: (k,) float32, their logits.
        log_total: Logarithm of the sum of exp(logit) over the whole vocabulary.
    """

    best: int
    ids: torch.Tensor
    scores: torch.Tensor
    log_total: float


def look(logits: torch.Tensor, depth: int, allowed: Sequence[int] = ()) -> list[Row | None]:
    """Look at the logits of several texts at once.

    Args:
        logits: (texts, vocabulary), on any device.
        depth: Likeliest tokens to take from each, > 0; more than there are takes all.
        allowed: Ids that may be chosen; () for all.

    Returns:
        A row for each text; None where a logit is infinite or no number.
    """
    scores = logits.float()
    finite = torch.isfinite(scores).all(-1).tolist()
    totals = scores.logsumexp(-1).tolist()
    names = torch.tensor(sorted(allowed), device=scores.device)
    if allowed:
        scores = scores[:, names]
    best = scores.argmax(-1)
    values, places = scores.topk(min(depth, scores.shape[-1]), dim=-1)
    if allowed:
        best, places = names[best], names[places]
    values, places = _ordered(values.cpu(), places.cpu())
    columns = zip(best.tolist(), places, values, totals, finite, strict=True)
    return [Row(*row) if fine else None for *row, fine in columns]


def _ordered(values: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put equal ones, which topk gives in no fixed order, in that of their ids."""
    ids, order = ids.sort(dim=-1)
    values, second = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, second)


class Chooser:
    """Chooses the tokens of one text, one after the other.

    Args:
        sampling: How.
        top_logprobs: Alternatives to report for each token; None leaves log-probabilities out.
        beginnings: Ids one of which the text must begin with; () for any text.
    """

    def __init__(
        self,
        sampling: Sampling,
        top_logprobs: int | None = None,
        beginnings: Sequence[Sequence[int]] = (),
    ) -> None:
        self._sampling, self._top = sampling, top_logprobs
        self._beginnings = [list(beginning) for beginning in beginnings]
        self._numbers = torch.Generator()
        if sampling.seed is None:
            self._numbers.seed()
        else:
            self._numbers.manual_seed(sampling.seed)

    @property
    def allowed(self) -> list[int]:
        """Ids that may come next; [] for any."""
        return sorted({beginning[0] for beginning in self._beginnings})

    @property
    def depth(self) -> int:
        """How many of the likeliest tokens it must be shown."""
        # Never less than SHALLOW when drawn: which of equal ones are seen depends on the depth,
        # which must not depend on what else is looked at.
        drawn = max(SHALLOW, self._sampling.top_k or ALL) if self._sampling.do_sample else 1
        return max(drawn, self._top or 1)

    def choose(self, row: Row | None) -> Token:
        """Return the next token.

        Args:
            row: At least `depth` deep, and of `allowed` ids only.

        Raises:
            GenerationFailed: If the row is None.
        """
        if row is None:
            raise GenerationFailed(
                "The model computed logits that are no finite numbers.",
                do="Use dtype bfloat16 or float32 instead of float16, or check the weights.",
            )
        chosen = self._drawn(row) if self._sampling.do_sample else row.best
        rest = [beginning[1:] for beginning in self._beginnings if beginning[0] == chosen]
        self._beginnings = [] if [] in rest else rest
        if self._top is None:
            return Token(chosen)
        ids, logs = row.ids.tolist(), (row.scores - row.log_total).tolist()
        top = tuple(zip(ids[: self._top], logs[: self._top], strict=True))
        # The likeliest may be one of several equal ones, and not the one that comes first.
        place = ids.index(chosen) if self._sampling.do_sample else 0
        return Token(chosen, logs[place], top)

    def _drawn(self, row: Row) -> int:
        """Draw from the likeliest that together reach top_p, out of the top_k likeliest."""
        sampling = self._sampling
        kept = row.scores[: sampling.top_k or ALL] / max(sampling.temperature, _COLDEST)
        shares = kept.softmax(-1)
        before = shares.cumsum(-1) - shares
        shares = shares.masked_fill(before >= sampling.top_p, 0)  # the first stays: none is before
        return int(row.ids[torch.multinomial(shares, 1, generator=self._numbers)])
