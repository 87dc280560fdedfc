"""A linear layer whose weights stay whole numbers in memory: OpenVINO on a CPU, PyTorch on a GPU.

It computes x @ weight.T + bias and nothing else. Why OpenVINO multiplies on the CPU, and what
PyTorch's own kernels measured there: docs/decisions/0011-quantisation.md.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import torch

from rag.embed.quiet import import_openvino
from rag.errors import ModelError
from rag.glm.packing import Packed

_ACTIVATION_GROUP = {8: 0, 4: 32}
"""4-bit layers round their input to 8 bits, so many columns sharing a scale: twice to four times as
fast, and an error of a twentieth of the weights' own. 0: the input stays as it is."""

_GROUPS = (32, 64, 128, 256)
"""Columns that may share a scale in PyTorch's 4-bit kernel."""

MANY_ROWS = 16
"""With more vectors at once, 8-bit numbers become a bfloat16 matrix first, on a GPU."""


class QuantizedLinear(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Weights of 8 or 4 bits on one device; it cannot be moved, trained or saved.

    Safe to share between threads: one product at a time.

    Args:
        packed: (n, k); do not change it afterwards. On a CPU its memory is kept and read again at
            the first product, when OpenVINO makes a rearranged copy: mapped from a file, it is
            memory that the system can take back at any time.
        bias: (n,) or None.
        device: "cpu" or a CUDA device.

    Raises:
        ModelError: If OpenVINO cannot build the layer.
    """

    def __init__(
        self, packed: Packed, bias: torch.Tensor | None, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.numbers.shape[0], packed.columns
        self.bits = packed.bits
        self.register_buffer("bias", bias, persistent=False)
        if torch.device(device).type == "cpu":
            self._product: _OpenVinoProduct | TorchProduct = _OpenVinoProduct(packed)
        else:
            self._product = TorchProduct(packed, torch.device(device))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (..., n) in the dtype of `states`, which is (..., k)."""
        rows = states.reshape(-1, self.in_features)
        product = self._product(rows).view(*states.shape[:-1], self.out_features)
        if self.bias is not None:
            product = product + self.bias
        return product.to(states.dtype)

    def extra_repr(self) -> str:
        """Return what printing the model shows of this layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


class _OpenVinoProduct:
    """x @ weight.T by a compiled graph of one operation."""

    def __init__(self, packed: Packed) -> None:
        openvino = import_openvino()
        options = cpu_options(packed.bits)
        try:
            compiled = openvino.Core().compile_model(_graph(openvino, packed), "CPU", options)
            self._request = compiled.create_infer_request()
            self._packed = packed  # the graph reads its memory
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO cannot build a quantised layer: {str(error).splitlines()[0]}.",
                do="Free memory, or load the model that was quantised.",
            ) from error
        self._lock = threading.Lock()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        inputs = rows.detach().to(torch.float32).contiguous().numpy()
        with self._lock:
            found = self._request.infer({0: inputs}, share_inputs=True, share_outputs=True)[0]
            return torch.from_numpy(found.copy())


def cpu_options(bits: int) -> dict[str, Any]:
    """Return with which settings OpenVINO compiles a layer of so many bits."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": _threads(),
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _ACTIVATION_GROUP[bits],
    }


def leave_cores_to_openvino() -> None:
    """Let PyTorch compute in one thread from now on, in this process.

    Its idle threads spin for a while after each operation and take the cores from OpenVINO's: with
    them, a model whose matrices are quantised gives a third fewer tokens a second.
    """
    torch.set_num_threads(1)


def _threads() -> int:
    """OMP_NUM_THREADS if it is set, else as many as this process may use processors."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _graph(openvino: Any, packed: Packed) -> Any:  # noqa: ANN401  an untyped library
    from openvino import opset13 as op

    rows, columns = packed.numbers.shape[0], packed.columns
    # Official checkpoints may have scales of another type than float16; float32 holds them all.
    kind = "f16" if packed.scale.dtype == torch.float16 else "f32"
    scale = packed.scale.to(torch.float16 if kind == "f16" else torch.float32).numpy()
    if packed.bits == 8:
        stored = openvino.Tensor(packed.numbers.numpy(), shared_memory=True)
        numbers = op.convert(op.constant(stored, shared_memory=True), kind)
        weight = op.multiply(numbers, op.constant(scale))
    else:
        groups = scale.shape[1]
        size = openvino.Shape([rows, groups, columns // groups])
        stored = openvino.Tensor(packed.numbers.numpy(), size, openvino.Type.u4)  # shared
        eight = op.convert(op.constant(np.full((1, 1, 1), 8, np.uint8)), kind)
        numbers = op.subtract(op.convert(op.constant(stored, shared_memory=True), kind), eight)
        weight = op.multiply(numbers, op.constant(scale[..., None]))
        weight = op.reshape(weight, op.constant([rows, columns]), special_zero=False)
    states = op.parameter([-1, columns], openvino.Type.f32)
    weight = op.convert(weight, "f32") if kind == "f16" else weight
    product = op.matmul(states, weight, False, True)
    return openvino.Model([product], [states], "linear")


class TorchProduct:
    """x @ weight.T by PyTorch's weight-only kernels, in bfloat16; 8-bit scales stay float32.

    Args:
        packed: (n, k).
        device: Where the product is computed.
    """

    def __init__(self, packed: Packed, device: torch.device) -> None:
        self._bits: int = packed.bits
        groups = packed.scale.shape[1]
        self._group = packed.columns // groups
        scale = packed.scale.to(device, torch.bfloat16)
        if packed.bits == 8:
            self._numbers = packed.numbers.to(device)
            self._scale = packed.scale[:, 0].to(device, torch.float32)
            self._ones = torch.ones(packed.numbers.shape[0], dtype=torch.bfloat16, device=device)
        elif self._group in _GROUPS and not (packed.columns % 128 or packed.numbers.shape[0] % 8):
            # The kernel takes two numbers a byte, the even column in the high half.
            swapped = (packed.numbers >> 4) | (packed.numbers << 4)
            self._numbers = torch.ops.aten._convert_weight_to_int4pack(swapped.to(device), 8)
            zero = torch.zeros_like(scale)  # it computes (number - 8) * scale + zero
            self._scale = torch.stack((scale, zero), dim=-1).transpose(0, 1).contiguous()
        else:  # sizes that the kernel does not know: only tiny models have them
            self._bits = 16  # plain
            self._numbers = packed.weight(torch.bfloat16).to(device)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (m, n), float32 or bfloat16, for rows (m, k) of any floating type."""
        rows = rows.to(torch.bfloat16)
        if self._bits == 8:
            # A row's scale can be multiplied last; bfloat16 holds the numbers themselves exactly.
            if len(rows) > MANY_ROWS:
                product = torch.nn.functional.linear(rows, self._numbers.to(torch.bfloat16))
            else:
                product = torch.ops.aten._weight_int8pack_mm(rows, self._numbers, self._ones)
            return product * self._scale
        if self._bits == 4:
            return torch.ops.aten._weight_int4pack_mm(rows, self._numbers, self._group, self._scale)
        return torch.nn.functional.linear(rows, self._numbers)
