"""One matrix of ChatGLM3-6B times a few vectors on this CPU: the candidates for quantised weights.

    python -m bench.glm_linear [--rows 27392] [--columns 4096]

Compared are PyTorch in bfloat16, PyTorch's own weight-only kernels and OpenVINO as the product uses
it. `error` is relative, against float32 weights; the kernels of a number of bits start from the
same numbers, so what differs between them is their arithmetic.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

from rag.glm.packing import Packed, pack
from rag.glm.quantized_linear import QuantizedLinear

VECTORS = (1, 4, 64)
ROUNDS = 7

Product = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=27_392)
    parser.add_argument("--columns", type=int, default=4_096)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(arguments.rows, arguments.columns, generator=generator) * 0.02
    packed = {8: pack(weight, 8), 4: pack(weight, 4)}
    half = weight.to(torch.bfloat16)
    candidates: dict[str, Product] = {
        "bfloat16, PyTorch": lambda x: torch.nn.functional.linear(x.to(torch.bfloat16), half),
        "8 bits, PyTorch": _torch_8(packed[8]),
        "8 bits, OpenVINO": QuantizedLinear(packed[8], None),
        "4 bits, PyTorch": _torch_4(packed[4]),
        "4 bits, OpenVINO": QuantizedLinear(packed[4], None),
    }
    inputs = {n: torch.randn(n, arguments.columns, generator=generator) for n in VECTORS}
    found = {
        name: {
            "ms": {n: round(_median_ms(product, x), 2) for n, x in inputs.items()},
            "error": round(_error(product(inputs[4]).float(), inputs[4] @ weight.T), 4),
        }
        for name, product in candidates.items()
    }
    head = {"rows": arguments.rows, "columns": arguments.columns}
    print(json.dumps({**head, "threads": torch.get_num_threads(), "found": found}, indent=2))


def _torch_8(packed: Packed) -> Product:
    scale = packed.scale[:, 0].to(torch.bfloat16)
    return lambda x: torch._weight_int8pack_mm(x.to(torch.bfloat16), packed.numbers, scale)


def _torch_4(packed: Packed) -> Product:
    numbers = torch._convert_weight_to_int4pack_for_cpu(packed.whole().int() + 8, 1)
    group = packed.columns // packed.scale.shape[1]
    scale = packed.scale.to(torch.bfloat16)
    both = torch.stack((scale, torch.zeros_like(scale)), dim=-1).transpose(0, 1).contiguous()
    return lambda x: torch._weight_int4pack_mm_for_cpu(x.to(torch.bfloat16), numbers, group, both)


def _median_ms(product: Product, x: torch.Tensor) -> float:
    times = []
    for _ in range(ROUNDS + 2):
        begin = time.perf_counter()
        product(x)
        times.append(time.perf_counter() - begin)
    return sorted(times[2:])[ROUNDS // 2] * 1e3


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()
