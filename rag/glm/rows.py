"""The cache of a batch whose rows have different lengths: padded on the left, joined and parted.

It computes nothing but places; the model fills the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import DynamicCache

    from rag.glm.load import LoadedGlm


class Rows:
    """Keys and values of n texts, each as wide as the longest.

    Args:
        cache: As the model left it, or a fresh one.
        lengths: Of each text, tokens; the cache has as many columns as the longest has.
    """

    def __init__(self, cache: DynamicCache, lengths: Sequence[int]) -> None:
        self.cache = cache
        self.lengths = list(lengths)

    def __len__(self) -> int:
        """Texts."""
        return len(self.lengths)

    def take(self, cache: DynamicCache, tokens: int) -> None:
        """Note that the model has put so many tokens behind every text."""
        self.cache = cache
        self.lengths = [length + tokens for length in self.lengths]

    def undo(self) -> None:
        """Take away what a failed step put behind some of the layers."""
        width = max(self.lengths)
        pairs = [(keys[:, :, :width], values[:, :, :width]) for keys, values in _layers(self.cache)]
        self.cache = _cache(pairs if width else [])

    def joined(self, other: Rows) -> Rows:
        """Return both together, the texts of `other` last."""
        width = max(self.lengths + other.lengths)
        pairs = [
            (_stack(keys, other_keys, width), _stack(values, other_values, width))
            for (keys, values), (other_keys, other_values) in zip(
                _layers(self.cache), _layers(other.cache), strict=True
            )
        ]
        return Rows(_cache(pairs), self.lengths + other.lengths)

    def only(self, places: Sequence[int]) -> Rows:
        """Return some of the texts, without columns that none of them needs."""
        lengths = [self.lengths[place] for place in places]
        width = max(lengths)
        index = torch.tensor(places)
        pairs = [
            (_pick(keys, index, width), _pick(values, index, width))
            for keys, values in _layers(self.cache)
        ]
        return Rows(_cache(pairs), lengths)


def first_rows(glm: LoadedGlm) -> Rows:
    """Return what stands before the first token of one text: nothing, or a P-Tuning prefix."""
    from transformers import DynamicCache

    if glm.prefix is None:
        return Rows(DynamicCache(), [0])
    model = glm.model
    return Rows(glm.prefix.cache(1, model.dtype, model.device), [glm.prefix.tokens])


def step_inputs(
    rows: Rows, ids: Sequence[Sequence[int]], device: torch.device | str
) -> dict[str, Any]:
    """Return what the model takes to read the next tokens of every text.

    Args:
        rows: What it has read.
        ids: As many for each text.
        device: The model's.
    """
    count, width = len(ids[0]), max(rows.lengths)
    lengths = torch.tensor(rows.lengths)[:, None]
    columns = torch.arange(width + count)[None]
    positions = lengths + torch.arange(count)[None]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": (columns >= width - lengths).long().to(device),
        "position_ids": positions.to(device),
        "past_key_values": rows.cache,
    }


def _layers(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]


def _cache(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache(pairs or None)


def _stack(first: torch.Tensor, second: torch.Tensor, width: int) -> torch.Tensor:
    return torch.cat([_widened(first, width), _widened(second, width)])


def _widened(side: torch.Tensor, width: int) -> torch.Tensor:
    """Return (texts, groups, width, head_dim), padded on the left."""
    return torch.nn.functional.pad(side, (0, 0, width - side.shape[2], 0))


def _pick(side: torch.Tensor, index: torch.Tensor, width: int) -> torch.Tensor:
    return side.index_select(0, index.to(side.device))[:, :, side.shape[2] - width :].contiguous()
