"""From a row of logits to the next id: greedy, or drawn within the most probable ones.

The defaults are those of the official demo's `chat` (do_sample, temperature 0.8, top_p 0.8). It
knows no model and keeps no state but a request's random generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag.errors import ModelError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next id is chosen.

    Attributes:
        do_sample: Whether it is drawn; else the most probable one is taken.
        temperature: > 0; divides the logits before drawing.
        top_p: In (0, 1]; the smallest set of most probable ids whose probabilities reach it is
            drawn from.
        seed: Of the drawing; None for another one every time.

    Raises:
        ValueError: If a number is out of range.
    """

    do_sample: bool = True
    temperature: float = 0.8
    top_p: float = 0.8
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise ValueError(
                f"expected temperature > 0 and 0 < top_p <= 1, got {self.temperature}, {self.top_p}"
            )

    def generator(self) -> torch.Generator:
        """Return a generator that begins at the seed."""
        made = torch.Generator()
        if self.seed is None:
            made.seed()
        else:
            made.manual_seed(self.seed)
        return made


def choose(
    logits: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[int, float]:
    """Choose the next id.

    Args:
        logits: (vocabulary,).
        sampling: How.
        generator: On the CPU; drawn from only if `do_sample`.

    Returns:
        The id, and the natural logarithm of its probability before temperature and top_p.

    Raises:
        ModelError: If a logit is NaN or infinite: the model has computed nonsense.
    """
    row = logits.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(row).all()):
        raise ModelError(
            "The model computed numbers that are none (NaN or infinite).",
            do="Use bfloat16 or float32 instead of float16, or check the weights.",
        )
    if sampling.do_sample:
        chances, ids = torch.softmax(row / sampling.temperature, -1).sort(descending=True)
        before = chances.cumsum(-1) - chances
        chances[before >= sampling.top_p] = 0  # the first stays: nothing is before it
        id_ = int(ids[torch.multinomial(chances, 1, generator=generator)])
    else:
        id_ = int(row.argmax())
    return id_, float(row[id_] - row.logsumexp(-1))
