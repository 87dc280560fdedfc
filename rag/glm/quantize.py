"""Writes a model folder whose matrices are whole numbers of 8 or 4 bits.

Weight by weight, so that memory holds one matrix and one open output file. The embedding and the
norms stay as they are, the output layer has 8 bits in either case. How the numbers are made is
packing.py's business, and how they are multiplied quantized_linear.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from rag.errors import CheckpointError
from rag.glm.checkpoint import Written, told, write_native
from rag.glm.config import Dtype
from rag.glm.keys import SCALE_SUFFIX, packed_bits, table
from rag.glm.packing import pack
from rag.glm.source import Source, Told, open_source
from rag.terminal import Advance


def quantize(
    source: Path,
    target: Path,
    bits: Literal[8, 4],
    *,
    shard_bytes: int | None = None,
    progress: Advance | None = None,
) -> Written:
    """Write a quantised native folder, which `load_chatglm3` loads; plain transformers refuses it.

    Args:
        source: A model, official or native, not quantised; it is not changed.
        target: A new folder; it appears when it is complete.
        bits: Of a number.
        shard_bytes: Most bytes of one weight file; None for a fitting size.
        progress: Told after each tensor.

    Raises:
        CheckpointError: If the source is not a complete ChatGLM3, is quantised already, or holds a
            weight that is no number.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    opened = open_source(source)
    if opened.shape.bits:
        raise CheckpointError(
            f"{source} is quantised already, to {opened.shape.bits} bits.",
            do="It can be loaded as it is; quantise the original for another number of bits.",
        )
    dtype: Dtype = "bfloat16" if opened.dtype == "bfloat16" else "float16"
    return write_native(
        opened,
        _packed(opened, bits, dtype, told(progress)),
        target,
        action="quantize",
        dtype=dtype,
        shard_bytes=shard_bytes,
        bits=bits,
    )


def _packed(
    source: Source, bits: int, dtype: Dtype, tell: Told | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what the folder stores: numbers and scales, or a tensor of `dtype`."""
    wanted = {
        part.name: packed_bits(entry, bits) for entry in table(source.shape) for part in entry.parts
    }
    for name, tensor in source.tensors(None, tell):
        if not (kept := wanted[name]):
            yield name, tensor.to(getattr(torch, dtype))
            continue
        try:
            packed = pack(tensor, 8 if kept == 8 else 4)
        except ValueError as error:
            raise CheckpointError(
                f"{name} in {source.folder} cannot be quantised: {error}.",
                do="Copy the model's folder again, or train it anew.",
            ) from error
        yield name, packed.numbers
        yield name + SCALE_SUFFIX, packed.scale
