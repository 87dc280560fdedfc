"""Official int8 and int4 weights back to numbers.

Per row and symmetric: a weight is its whole number times the row's scale, which is
max|w| / (2^(bits-1) - 1). Two int4 numbers share a byte, the even column in the high half.
"""

from __future__ import annotations

import torch


def dequantize(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the weights that quantised ones stand for.

    Args:
        weight: (rows, columns) int8, one number each; see `unpack` for int4.
        scale: (rows,), floating.
        dtype: Of the result. The product is computed in float32 and rounded once.

    Returns:
        (rows, columns) of `dtype`.
    """
    return (weight.to(torch.float32) * scale.to(torch.float32)[:, None]).to(dtype)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return the numbers, -8 to 7, of packed int4 pairs.

    Args:
        packed: (rows, columns / 2) int8.

    Returns:
        (rows, columns) int8.
    """
    high = packed >> 4  # keeps the sign
    low = (packed << 4) >> 4
    return torch.stack((high, low), dim=-1).flatten(-2)
