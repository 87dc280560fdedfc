"""Weights as whole numbers of 8 or 4 bits with scales: how they are made, stored and read back.

8 bits: one scale for each row, the largest magnitude stands for 127; this is the official int8
scheme, too. 4 bits: one scale for each group of columns of a row, the number furthest from zero
stands for -8. Both are symmetric and weight-only; nothing here multiplies or loads a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from rag.glm.config import GROUP

Bits: TypeAlias = Literal[8, 4]

_ROWS_AT_ONCE = 2_048
"""So that packing takes some tens of MiB beside a matrix, whatever its size."""

_LARGEST_SCALE = 65_504.0
"""Of float16."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised matrix of n rows and k columns.

    Attributes:
        numbers: 8 bits: (n, k) int8. 4 bits: (n, k / 2) uint8, the number plus 8, the even column
            in the low half.
        scale: (n, groups) floating; a weight is its number times its group's scale.
    """

    numbers: torch.Tensor
    scale: torch.Tensor

    @property
    def bits(self) -> Bits:
        """Of one number."""
        return 8 if self.numbers.dtype == torch.int8 else 4

    @property
    def columns(self) -> int:
        """K."""
        return int(self.numbers.shape[1]) * 8 // self.bits

    def whole(self) -> torch.Tensor:
        """Return (n, k) int8 numbers, -127 to 127 or -8 to 7."""
        if self.bits == 8:
            return self.numbers
        low, high = self.numbers & 15, self.numbers >> 4
        return torch.stack((low, high), dim=-1).flatten(-2).to(torch.int8) - 8

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return (n, k) weights, computed in float32 and rounded once to `dtype`."""
        rows, groups = self.scale.shape
        numbers = self.whole().view(rows, groups, -1).to(torch.float32)
        return (numbers * self.scale.to(torch.float32)[..., None]).view(rows, -1).to(dtype)


def group_count(columns: int, bits: Bits) -> int:
    """Return how many scales a row of so many columns has."""
    return columns // GROUP if bits == 4 and columns % GROUP == 0 else 1


def pack(weight: torch.Tensor, bits: Bits) -> Packed:
    """Round a matrix to the nearest numbers.

    With step = |scale|, each weight is off by at most step / 2, but for 4-bit weights beyond
    +7.5 steps, which are off by at most one step, and for the rounding of the scale to float16.

    Args:
        weight: (n, k) finite; k even for 4 bits.
        bits: 8 or 4.

    Returns:
        The same for the same weights, on every machine.

    Raises:
        ValueError: If a weight is NaN, infinite or too large for a float16 scale, or k is odd for
            4 bits.
    """
    columns = weight.shape[1]
    if bits == 4 and columns % 2:
        raise ValueError(f"expected an even number of columns for 4 bits, got {columns}")
    blocks = [_pack_rows(block, bits) for block in weight.split(_ROWS_AT_ONCE)]
    return Packed(
        torch.cat([block.numbers for block in blocks]), torch.cat([block.scale for block in blocks])
    )


def _pack_rows(weight: torch.Tensor, bits: Bits) -> Packed:
    rows, columns = weight.shape
    grouped = weight.to(torch.float32).view(rows, group_count(columns, bits), -1)
    if not bool(torch.isfinite(grouped).all()):
        raise ValueError("got a weight that is NaN or infinite")
    if bits == 8:
        extreme, most, least = grouped.abs().amax(-1), 127, -127
        scale = extreme / 127
    else:
        furthest = grouped.abs().argmax(-1, keepdim=True)
        most, least = 7, -8
        scale = grouped.gather(-1, furthest)[..., 0] / -8
    if bool((scale.abs() > _LARGEST_SCALE).any()):
        raise ValueError(
            f"got a weight of {float(grouped.abs().max()):.3g}, whose scale float16 cannot hold"
        )
    scale = scale.to(torch.float16)
    divisor = torch.where(scale == 0, torch.inf, scale.to(torch.float32))
    numbers = (grouped / divisor[..., None]).round().clamp(least, most).to(torch.int8)
    return Packed(_stored(numbers.view(rows, columns), bits), scale)


def from_official(numbers: torch.Tensor, scale: torch.Tensor, bits: int) -> Packed:
    """Take over an official quantised matrix, number by number.

    Args:
        numbers: (n, k) int8, or (n, k / 2) int8 packed the official way.
        scale: (n,) floating.
        bits: 8 or 4.
    """
    whole = unpack_official(numbers) if bits == 4 else numbers
    return Packed(_stored(whole, 4 if bits == 4 else 8), scale[:, None])


def _stored(numbers: torch.Tensor, bits: Bits) -> torch.Tensor:
    if bits == 8:
        return numbers.contiguous()
    shifted = (numbers + 8).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def unpack_official(packed: torch.Tensor) -> torch.Tensor:
    """Return (n, k) numbers, -8 to 7, of (n, k / 2) pairs, the even column in the high half."""
    high = packed >> 4  # keeps the sign
    low = (packed << 4) >> 4
    return torch.stack((high, low), dim=-1).flatten(-2)
