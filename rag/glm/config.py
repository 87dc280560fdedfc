"""ChatGLM3's config.json: read strictly, and rewritten for the native GLM model and back.

Every key is either read, or required to have the one value this model supports, or known to have
no effect on what the model computes. Any other key is refused by name: a switch that nobody looked
at is how a model turns wrong without a word. It opens no weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rag.errors import CheckpointError
from rag.glm.folder import unreadable
from rag.glm.tokenizer import CHATGLM3_PIECES, CHATGLM3_VOCABULARY, EOS, PAD

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")

ROPE_BASE = 10_000
"""Base of the rotary angles when rope_ratio is 1."""

METHOD = "youju"
"""Of quantisation, in config.json."""

QUANTIZED_TYPE = "glm_youju"
"""model_type of a quantised folder: plain transformers refuses it, where it would read the numbers
of a "glm" folder as weights and merely warn of a method it does not know."""

PACKING = 1
"""Version of how quantised weights are stored; raised when that changes."""

GROUP = 128
"""Columns that share a scale in 4 bits, where it divides them; else the whole row shares one."""

MOST_LAYERS, MOST_WIDTH = 1_000, 1_000_000
"""Limits on what a config may claim, so that a hostile one cannot ask for all memory."""

_SIZES = {
    "num_layers": "layers",
    "padded_vocab_size": "vocabulary",
    "hidden_size": "hidden",
    "ffn_hidden_size": "intermediate",
    "kv_channels": "head_dim",
    "num_attention_heads": "heads",
    "seq_length": "context",
}
_READ = {
    *_SIZES,
    "multi_query_group_num",
    "layernorm_epsilon",
    "rope_ratio",
    "add_qkv_bias",
    "attention_dropout",
    "quantization_bit",
    "pre_seq_len",
    "prefix_projection",
    "torch_dtype",
    "dtype",
    "_name_or_path",
    "vocab_size",
}
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("chatglm",),
    "rmsnorm": (True,),
    "multi_query_attention": (True,),
    "original_rope": (True,),
    "post_layer_norm": (True,),
    "apply_residual_connection_post_layernorm": (False,),
    "add_bias_linear": (False,),
    "fp32_residual_connection": (False,),
    "tie_word_embeddings": (False,),
    "interleaved_qkv": (False,),
    "eos_token_id": (EOS, None, [EOS], [EOS, CHATGLM3_PIECES + 6, CHATGLM3_PIECES + 8]),
    "pad_token_id": (PAD, None),
}
_NO_EFFECT = {
    # Names and bookkeeping.
    "architectures", "auto_map", "transformers_version", "bos_token_id", "use_cache",
    "_commit_hash", "_attn_implementation_autoset",
    # How it is computed and trained, not what.
    "_attn_implementation", "attn_implementation", "gradient_checkpointing",
    # Scaled by a layer's number, and back again inside the softmax.
    "apply_query_key_layer_scaling", "attention_softmax_in_fp32",
    # Speed, dropout in training, a head this model does not have.
    "bias_dropout_fusion", "hidden_dropout", "classifier_dropout",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GlmShape:
    """What there is to know about a ChatGLM3 model beside its weights.

    Attributes:
        layers: Transformer layers.
        hidden: Width of the hidden states.
        intermediate: Width of the feed-forward layer, after gating.
        heads: Query heads.
        groups: Key and value heads; a divisor of `heads`.
        head_dim: Width of a head; half of it is rotated.
        vocabulary: Rows of the embedding, padding included.
        context: Tokens the model was made for.
        epsilon: Of the RMS norms.
        rope_ratio: Stretches the rotary base; 50 for the 32k model.
        qkv_bias: Whether queries, keys and values have a bias.
        attention_dropout: While training.
        dtype: Of the weights; for quantised ones, of what they stand for.
        bits: 8 or 4 for a quantised model, official or native, else 0.
        prefix_tokens: Virtual tokens of a P-Tuning v2 checkpoint, else 0.
        prefix_projection: Whether its prefix goes through a small network.
        name: Where the config says it came from; "" if it does not.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int
    head_dim: int
    vocabulary: int
    context: int
    epsilon: float = 1e-5
    rope_ratio: float = 1
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    dtype: Dtype = "float16"
    bits: int = 0
    prefix_tokens: int = 0
    prefix_projection: bool = False
    name: str = ""

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of queries, keys and values in the fused projection."""
        return self.heads * self.head_dim, self.groups * self.head_dim, self.groups * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        rows = sum(self.qkv_rows)
        layer = (
            rows * (self.hidden + self.qkv_bias)
            + self.hidden * self.qkv_rows[0]
            + 3 * self.hidden * self.intermediate
            + 2 * self.hidden
        )
        return self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer; for a vocabulary that is not ChatGLM3's, only </s>."""
        if self.vocabulary != CHATGLM3_VOCABULARY:
            return [EOS]
        return [EOS, CHATGLM3_PIECES + 6, CHATGLM3_PIECES + 8]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: If it is missing or holds something else.
        PathError: If it may not be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise CheckpointError(
            f"Cannot read {path}: {reason}.", do="Copy the model's folder again, completely."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object.", do="Copy the model's folder again.")
    return value


def family(config: Mapping[str, Any]) -> str:
    """Return which model a config.json describes, as a reader would call it.

    "ChatGLM3" is one in the official layout; "native GLM" one that transformers runs by itself.
    ChatGLM2 has the same architecture and is known by its name only.
    """
    model_type = config.get("model_type")
    if model_type in ("glm", QUANTIZED_TYPE):
        return "native GLM"
    if model_type != "chatglm":
        return f"{model_type!r}" if isinstance(model_type, str) else "without a model_type"
    if "position_encoding_2d" in config or "inner_hidden_size" in config:
        return "ChatGLM-6B (the first)"
    name = str(config.get("_name_or_path", "")).replace("\\", "/").rstrip("/").rpartition("/")[2]
    if found := re.search(r"chatglm2|codegeex2", name.lower()):
        return "ChatGLM2" if found[0] == "chatglm2" else "CodeGeeX2"
    if config.get("padded_vocab_size") == 151_552 or "glm-4" in name.lower():
        return "GLM-4"
    return "ChatGLM3"


def read_official(config: Mapping[str, Any], where: str | Path) -> GlmShape:
    """Read the config of an official ChatGLM3 checkpoint.

    Args:
        config: What config.json holds.
        where: The folder, for messages.

    Raises:
        CheckpointError: If it is another model's, a key is unknown, missing or has a value under
            which the model would compute something else.
    """
    found = family(config)
    if found != "ChatGLM3":
        raise CheckpointError(
            f"{where} holds a model of another family: {found}.",
            do="Expected ChatGLM3-6B, -base, -32k or -128k in the official layout.",
        )
    if unknown := sorted(config.keys() - _READ - _FIXED.keys() - _NO_EFFECT):
        raise CheckpointError(
            f"The config of {where} has the unknown key {unknown[0]!r}.",
            do="Remove it if it has no effect; else this model is not supported.",
        )
    for key, allowed in _FIXED.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(
                f"The config of {where} says {key} = {config[key]!r}; ChatGLM3 has {allowed[0]!r}.",
                do="This variant computes something else and is not supported.",
            )
    if config.get("multi_query_attention") is not True:
        raise CheckpointError(
            f"The config of {where} lacks multi_query_attention, which ChatGLM3 has.",
            do="Copy the model's config.json again.",
        )
    sizes: dict[str, Any] = {f: _size(config, key, where) for key, f in _SIZES.items()}
    shape = GlmShape(
        **sizes,
        groups=_size(config, "multi_query_group_num", where),
        epsilon=_number(config, "layernorm_epsilon", 1e-5, where),
        rope_ratio=_number(config, "rope_ratio", 1, where),
        qkv_bias=bool(config.get("add_qkv_bias", False)),
        attention_dropout=_number(config, "attention_dropout", 0.0, where),
        dtype=_dtype(config, where),
        bits=_choice(config, "quantization_bit", (0, 4, 8), where),
        prefix_tokens=(config.get("pre_seq_len") and _size(config, "pre_seq_len", where)) or 0,
        prefix_projection=bool(config.get("prefix_projection", False)),
        name=str(config.get("_name_or_path", "")),
    )
    _check(shape, config, where)
    return shape


def read_native(config: Mapping[str, Any], where: str | Path) -> GlmShape:
    """Read the config of a converted model, as `native_config` or save_pretrained wrote it.

    Raises:
        CheckpointError: If it is not a GLM model that ChatGLM3 could have become.
    """
    rope = config.get("rope_parameters") or {}
    rope = rope if isinstance(rope, Mapping) else {}
    factor = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if (
        family(config) != "native GLM"
        or rope.get("rope_type", "default") != "default"
        or factor != 0.5
        or config.get("hidden_act") != "silu"
        or config.get("vocab_size") == 151_552
    ):
        found = "GLM-4" if config.get("vocab_size") == 151_552 else family(config)
        raise CheckpointError(
            f"{where} holds no converted ChatGLM3 but a model of another family: {found}.",
            do="Expected what `youju glm convert` writes.",
        )
    names = {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "intermediate": "intermediate_size",
        "heads": "num_attention_heads",
        "groups": "num_key_value_heads",
        "head_dim": "head_dim",
        "vocabulary": "vocab_size",
        "context": "max_position_embeddings",
    }
    ratio = _number(rope, "rope_theta", 0, where) / ROPE_BASE
    sizes: dict[str, Any] = {field: _size(config, key, where) for field, key in names.items()}
    shape = GlmShape(
        **sizes,
        epsilon=_number(config, "rms_norm_eps", 1e-5, where),
        rope_ratio=int(ratio) if ratio == int(ratio) else ratio,
        qkv_bias=bool(config.get("attention_bias", True)),
        attention_dropout=_number(config, "attention_dropout", 0.0, where),
        dtype=_dtype(config, where),
        bits=_native_bits(config.get("quantization_config"), where),
    )
    _check(shape, config, where)
    return shape


def _native_bits(found: object, where: str | Path) -> int:
    """Read a quantization_config; only what `youju glm quantize` writes now is taken."""
    if found is None:
        return 0
    for bits in (8, 4):
        if found == packing_settings(bits):
            return bits
    method = found.get("quant_method") if isinstance(found, dict) else found
    raise CheckpointError(
        f"{where} was quantised by another program or version: {method!r}, {found!r:.200}.",
        do="Quantise the original with `youju glm quantize`.",
    )


def packing_settings(bits: int) -> dict[str, Any]:
    """Return what a quantised native folder's config says of how its weights are stored."""
    return {"quant_method": METHOD, "format": PACKING, "bits": bits, "group_size": GROUP}


def native_config(shape: GlmShape, *, stop_ids: list[int], dtype: Dtype) -> dict[str, Any]:
    """Return the config.json with which transformers builds a `GlmForCausalLM`.

    It says nothing of quantisation; see `packing_settings`.
    """
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": shape.qkv_bias,
        "attention_dropout": shape.attention_dropout,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(ROPE_BASE * shape.rope_ratio),
            "partial_rotary_factor": 0.5,
        },
        "tie_word_embeddings": False,
        "use_cache": True,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": stop_ids,
        "dtype": dtype,
    }


def official_config(shape: GlmShape, dtype: Dtype) -> dict[str, Any]:
    """Return the config.json of the official layout."""
    classes = {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    }
    config = {
        "_name_or_path": shape.name or "chatglm3-6b",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": classes,
        "add_bias_linear": False,
        "add_qkv_bias": shape.qkv_bias,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": shape.attention_dropout,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "layernorm_epsilon": shape.epsilon,
        "multi_query_attention": True,
        "multi_query_group_num": shape.groups,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        "use_cache": True,
        "tie_word_embeddings": False,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": dtype,
    }
    config |= {key: getattr(shape, field) for key, field in _SIZES.items()}
    return config if shape.rope_ratio == 1 else config | {"rope_ratio": shape.rope_ratio}


def _check(shape: GlmShape, config: Mapping[str, Any], where: str | Path) -> None:
    wrong = ""
    if shape.heads % shape.groups:
        wrong = f"{shape.heads} heads do not share {shape.groups} groups evenly"
    elif shape.head_dim % 4:
        wrong = f"a head of width {shape.head_dim} cannot be rotated by half"
    elif config.get("vocab_size", shape.vocabulary) != shape.vocabulary:
        wrong = f"vocab_size {config['vocab_size']} is not the padded {shape.vocabulary}"
    elif shape.layers > MOST_LAYERS or max(shape.hidden, shape.intermediate) > MOST_WIDTH:
        wrong = (
            f"its sizes are beyond any ChatGLM3, at most {MOST_LAYERS:,} layers and a width of "
            f"{MOST_WIDTH:,}"
        )
    if wrong or shape.rope_ratio <= 0 or shape.epsilon <= 0:
        raise CheckpointError(
            f"The config of {where} is contradictory: "
            f"{wrong or 'rope_ratio and epsilon must be above 0'}.",
            do="Copy the model's config.json again.",
        )


def _size(config: Mapping[str, Any], key: str, where: str | Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 2**31:
        raise CheckpointError(
            f"The config of {where} has {key} = {value!r}; expected a positive whole number.",
            do="Copy the model's config.json again.",
        )
    return value


def _number(config: Mapping[str, Any], key: str, default: float, where: str | Path) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise CheckpointError(
            f"The config of {where} has {key} = {value!r}; expected a number.",
            do="Copy the model's config.json again.",
        )
    return value


def _choice(
    config: Mapping[str, Any], key: str, allowed: tuple[int, ...], where: str | Path
) -> int:
    value = config.get(key) or 0
    if value not in allowed:
        raise CheckpointError(
            f"The config of {where} has {key} = {value!r}.",
            do=f"Supported: {', '.join(map(str, allowed))}.",
        )
    return int(value)


def _dtype(config: Mapping[str, Any], where: str | Path) -> Dtype:
    value = str(config.get("torch_dtype") or config.get("dtype") or "float16")
    for dtype in DTYPES:
        if value.removeprefix("torch.") == dtype:
            return dtype
    raise CheckpointError(
        f"The config of {where} has the unknown dtype {value!r}.",
        do=f"Supported: {', '.join(DTYPES)}.",
    )
