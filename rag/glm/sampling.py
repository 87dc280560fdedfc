"""How the next token is chosen from the logits of one text; knows no batch, no text, no model.

The official defaults are those of `chat` and `stream_chat` in the official modeling_chatglm.py:
do_sample, temperature 0.8, top_p 0.8, and max_length 8192 for prompt and answer together. top_k
is not named there; 50 is what transformers' `generate` then takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rag.errors import ConfigError, GenerationFailed

MOST_TOP_LOGPROBS = 20
"""Alternatives whose log-probability can be had for each token, as at OpenAI's endpoint."""


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
        for name, fits, expected in (
            ("temperature", 0 < self.temperature < float("inf"), "above 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("seed", self.seed is None or -(2**63) <= self.seed < 2**63, "of 64 bits"),
        ):
            if not fits:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} is not allowed.",
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
        from transformers import (
            LogitsProcessorList,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        self._top = top_logprobs
        self._beginnings = [list(beginning) for beginning in beginnings]
        self._numbers: torch.Generator | None = None
        if not sampling.do_sample:
            return
        self._numbers = torch.Generator()
        if sampling.seed is None:
            self._numbers.seed()
        else:
            self._numbers.manual_seed(sampling.seed)
        self._cuts = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
        if sampling.top_k:
            self._cuts.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._cuts.append(TopPLogitsWarper(sampling.top_p))

    def choose(self, logits: torch.Tensor) -> Token:
        """Return the next token.

        Args:
            logits: (vocabulary,), on any device.

        Raises:
            GenerationFailed: If a logit is infinite or no number.
        """
        scores = logits.float()
        if not bool(torch.isfinite(scores).all()):
            raise GenerationFailed(
                "The model computed logits that are no finite numbers.",
                do="Use dtype bfloat16 or float32 instead of float16, or check the weights.",
            )
        open_ = _only(scores, {beginning[0] for beginning in self._beginnings})
        if self._numbers is None:
            chosen = int(open_.argmax())
        else:
            # Drawn on the CPU: the same seed then gives the same tokens on every device.
            shares = self._cuts(None, open_[None])[0].softmax(-1).cpu()
            chosen = int(torch.multinomial(shares, 1, generator=self._numbers))
        rest = [beginning[1:] for beginning in self._beginnings if beginning[0] == chosen]
        self._beginnings = [] if [] in rest else rest
        if self._top is None:
            return Token(chosen)
        logs = scores.log_softmax(-1)
        best = logs.topk(min(self._top, len(logs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Token(chosen, float(logs[chosen]), top)


def _only(scores: torch.Tensor, allowed: set[int]) -> torch.Tensor:
    """The scores with all but the allowed ids ruled out; an empty set allows all."""
    if not allowed:
        return scores
    masked = torch.full_like(scores, float("-inf"))
    masked[list(allowed)] = scores[list(allowed)]
    return masked
