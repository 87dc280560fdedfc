"""One matrix of ChatGLM3-6B times a few vectors on this CPU: the candidates for quantised weights.

    python -m bench.glm_linear [--rows 27392] [--columns 4096]

Compared are PyTorch in bfloat16, PyTorch's own weight-only kernels and OpenVINO as the product uses
it; also NNCF and torchao, which the product does not need, where they are installed. `error` is
relative, against float32 weights; the kernels of a number of bits start from the same numbers, so
what differs between them is their arithmetic. NNCF and torchao round by themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from rag.glm.packing import Packed, pack
from rag.glm.quantized_linear import QuantizedLinear, cpu_options

VECTORS = (1, 4, 64)
ROUNDS = 21

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
    if importlib.util.find_spec("nncf"):
        candidates |= {f"{bits} bits, NNCF": _nncf(weight, bits) for bits in (8, 4)}
    if importlib.util.find_spec("torchao"):
        candidates["8 bits, torchao"] = _torchao(half)
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


def _nncf(weight: torch.Tensor, bits: int) -> Product:
    """OpenVINO on what NNCF makes of the matrix, with the settings of the product."""
    with contextlib.redirect_stdout(sys.stderr):
        import nncf
    import openvino
    from openvino import opset13 as op

    states = op.parameter([-1, weight.shape[1]], openvino.Type.f32)
    product = op.matmul(states, op.constant(weight.numpy()), False, True)
    mode = nncf.CompressWeightsMode
    chosen: dict[str, Any] = {"mode": mode.INT8_SYM}
    if bits == 4:
        chosen = {"mode": mode.INT4_SYM, "group_size": 128, "all_layers": True}
    with contextlib.redirect_stdout(sys.stderr):  # it prints a table
        model = nncf.compress_weights(openvino.Model([product], [states], "linear"), **chosen)
    request = openvino.Core().compile_model(model, "CPU", cpu_options(bits)).create_infer_request()
    return lambda x: torch.from_numpy(request.infer({0: x.numpy()})[0].copy())


def _torchao(half: torch.Tensor) -> Product:
    """Its weight-only 8 bits; its 4 bits need another package on a CPU."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(half.shape[1], half.shape[0], bias=False, dtype=torch.bfloat16)
    layer.weight.data.copy_(half)
    quantize_(layer, Int8WeightOnlyConfig())

    def product(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return layer(x.to(torch.bfloat16))

    return product


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
