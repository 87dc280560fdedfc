"""Loads ChatGLM3 into memory from the official layout or a converted folder.

No copy is written and no code of the checkpoint is run: official tensors go straight into
transformers' own `GlmForCausalLM`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rag.errors import CheckpointError, ConfigError, ModelError
from rag.glm.adapters import adapter_kind
from rag.glm.checkpoint import SAMPLING
from rag.glm.config import DTYPES, Dtype, GlmShape, native_config
from rag.glm.hub import find_checkpoint
from rag.glm.lora import Lora, read_lora
from rag.glm.packing import Packed
from rag.glm.prefix import Prefix, read_prefix
from rag.glm.quantized_linear import QuantizedLinear, leave_cores_to_openvino
from rag.glm.source import Source, open_source
from rag.glm.tokenizer import ChatGLM3Tokenizer

if TYPE_CHECKING:
    from transformers import GlmForCausalLM


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedGlm:
    """A model ready to run.

    Attributes:
        model: transformers' own, in evaluation mode, its parameters without gradients.
        tokenizer: None if the folder has no tokenizer.model.
        shape: Sizes of the model.
        stop_ids: Ids that end an answer.
        name: Under which the model was published, or its folder's, for people.
        prefix: Of a P-Tuning adapter; whoever runs the model puts its cache before each text.
    """

    model: GlmForCausalLM
    tokenizer: ChatGLM3Tokenizer | None
    shape: GlmShape
    stop_ids: list[int]
    name: str
    prefix: Prefix | None = None


def load_chatglm3(
    path_or_hub_id: str | Path,
    dtype: Dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    adapter: str | Path | None = None,
    download: bool = False,
    keep_quantized: bool = True,
) -> LoadedGlm:
    """Load ChatGLM3 from an official or a converted folder.

    Memory peaks at the model in `dtype`, the largest stored tensor and what PyTorch itself takes.

    Args:
        path_or_hub_id: A folder, or a name on the hub such as "THUDM/chatglm3-6b".
        dtype: To compute in; None takes the stored one (float16 for the official 6B model, which
            CPUs compute slowly: name bfloat16 or float32 there).
        device: Where to put it.
        adapter: Folder of an adapter, official or native: LoRA is added to the weights, P-Tuning
            is returned as `prefix`.
        download: Fetch a named model that is not here yet. Without it nothing is downloaded.
        keep_quantized: Whether quantised weights stay whole numbers in memory, and are multiplied
            as such; else they become plain ones of `dtype`. On a CPU it is OpenVINO that multiplies
            them, and PyTorch is set to one thread in this process. There the weight files stay
            mapped while the model lives: they may be deleted, but not written into.

    Raises:
        ConfigError: If the dtype is none, or the device is none or not there.
        CheckpointError: If a folder is another model, incomplete, damaged or holds code.
        AdapterMismatch: If the adapter was trained on another model.
        ModelError: If there is no such model here, or memory does not suffice.
    """
    if dtype not in (None, *DTYPES):
        raise ConfigError(
            f"dtype = {dtype!r} is not allowed.",
            do=f"Expected one of {', '.join(map(repr, DTYPES))}, or None for the stored one.",
        )
    require_device(device)
    folder = find_checkpoint(str(path_or_hub_id), download=download)
    source = open_source(folder)
    shape, dtype = source.shape, dtype or source.dtype
    kept = bool(shape.bits) and keep_quantized
    lora, prefix = None, None
    if adapter is not None:
        lora, prefix = read_adapter(Path(adapter), source, keep_quantized=kept)
    name = source.name
    tensors: Iterator[tuple[str, torch.Tensor | Packed]]
    if kept:
        tensors = source.packed(dtype)
    else:
        plain = source.tensors(source.exact if lora else dtype, copied=True)
        tensors = iter(lora.merged(plain, getattr(torch, dtype)) if lora else plain)
    if kept and torch.device(device).type == "cpu":
        leave_cores_to_openvino()
    state: dict[str, torch.Tensor] = {}
    layers: dict[str, QuantizedLinear] = {}
    try:
        for key, value in tensors:
            if isinstance(value, Packed):
                layers[key.removesuffix(".weight")] = QuantizedLinear(value, None, device)
            else:
                state[key] = value.to(device=device)
        model = build_model(
            shape, state, layers, stop_ids=source.stop_ids, dtype=dtype, device=device
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(name, shape, dtype, device) from error
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        raise _too_large(name, shape, dtype, device) from error
    return LoadedGlm(model, source.tokenizer, shape, source.stop_ids, name, prefix)


def require_device(device: str | torch.device) -> None:
    """Refuse what PyTorch knows no device by, and a GPU it does not find.

    Raises:
        ConfigError: Saying which.
    """
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device (generator_device) = {device!r} is no device.", do="Expected cpu or cuda:0."
        ) from error
    cuda = torch.cuda.device_count()
    if known.type == "cuda" and (known.index or 0) >= cuda:
        raise ConfigError(
            f"device (generator_device) = {device}, but PyTorch finds {cuda} GPUs.",
            do="Set it to cpu.",
        )


def build_model(
    shape: GlmShape,
    state: dict[str, torch.Tensor],
    layers: Mapping[str, QuantizedLinear] | None = None,
    *,
    stop_ids: list[int],
    dtype: Dtype,
    device: str | torch.device = "cpu",
) -> GlmForCausalLM:
    """Put native tensors into a model, without a copy and without random weights before.

    Args:
        shape: The model's.
        state: Every native tensor, on `device` and of `dtype`; the model takes them over.
        layers: Quantised linear modules by name, instead of their weights in `state`; they get
            their biases from there.
        stop_ids: Ids that end an answer.
        dtype: Recorded in the model's config.
        device: Where the rotary frequencies go; they stay float32.

    Raises:
        CheckpointError: If a tensor is missing or one too many is there.
    """
    from transformers import GenerationConfig, GlmConfig, GlmForCausalLM
    from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

    config = GlmConfig(**native_config(shape, stop_ids=stop_ids, dtype=dtype))
    with torch.device("meta"):
        model = GlmForCausalLM(config)
    for name, layer in (layers or {}).items():
        layer.bias = state.pop(f"{name}.bias", None)
        model.set_submodule(name, layer)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"The weights do not fit the model: {error}.") from error
    model.model.rotary_emb = GlmRotaryEmbedding(config).to(device)
    model.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=list(stop_ids), **SAMPLING
    )
    return model.requires_grad_(False).eval()


def read_adapter(
    folder: Path, source: Source, *, keep_quantized: bool = True
) -> tuple[Lora | None, Prefix | None]:
    """Read an adapter for a model.

    Args:
        folder: The adapter's, official or native.
        source: The model's.
        keep_quantized: Whether quantised weights are to stay whole numbers; LoRA is then refused.

    Returns:
        One of the two.

    Raises:
        AdapterMismatch: If it was trained on another model.
        CheckpointError: If it is none, damaged, or cannot be put on this model.
        PathError: If there is no such folder.
    """
    kind = adapter_kind(folder)
    if kind == "LoRA":
        if source.shape.bits and keep_quantized:
            raise CheckpointError(
                f"{source.folder} is quantised: a LoRA adapter cannot be added to its whole "
                "numbers.",
                do="Merge it into the original with `youju glm merge`, then quantise the result.",
            )
        return read_lora(folder, source.shape, source.name), None
    if kind == "P-Tuning":
        return None, read_prefix(folder, source.shape, source.name)
    raise CheckpointError(
        f"{folder} holds no adapter.", do="`youju glm inspect` says what a folder holds."
    )


def _too_large(name: str, shape: GlmShape, dtype: Dtype, device: str | torch.device) -> ModelError:
    needed = shape.parameters * getattr(torch, dtype).itemsize / 2**30
    return ModelError(
        f"{name} does not fit into the memory of {device}: its weights take {needed:.1f} GiB as "
        f"{dtype}.",
        do="Free memory, use float16 or bfloat16, or a quantised model.",
    )
