"""ChatGLM3-6B's full shape on a GPU: random bfloat16 weights, one text and many at once.

    python -m bench.glm_gpu [--prompt 512] [--tokens 256] [--batch 32] [--layers 28]

Decoding uses a static cache and a compiled forward pass (CUDA graphs). `bound_tokens_s` is how
often all weights can be read in a second, at the bandwidth of a copy measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

import torch

from rag.glm.config import GlmShape
from rag.glm.keys import table
from rag.glm.load import build_model

if TYPE_CHECKING:
    from transformers import GlmForCausalLM


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, default=28)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("Error: PyTorch sees no GPU here. Run it on a machine with one.")
    shape = GlmShape(arguments.layers, 4096, 13696, 32, 2, 128, 65024, 8192)
    model = random_model(shape, "cuda")
    read = sum(p.nbytes for n, p in model.named_parameters() if "embed_tokens" not in n)
    alone = measure(model, 1, arguments.prompt, arguments.tokens)
    many = measure(model, arguments.batch, arguments.prompt, arguments.tokens)
    bound = copy_bandwidth() / read
    print(
        json.dumps(
            {
                "gpu": torch.cuda.get_device_name(),
                "parameters": shape.parameters,
                "tokens_s": round(alone, 1),
                "bound_tokens_s": round(bound, 1),
                "share_of_bound": round(alone / bound, 3),
                "batch": arguments.batch,
                "batch_tokens_s": round(many, 1),
                "batch_to_one": round(many / alone, 2),
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
            },
            indent=2,
        )
    )


def random_model(shape: GlmShape, device: str) -> GlmForCausalLM:
    """Return a model of random bfloat16 weights, made where it will run."""
    state = {
        part.name: torch.randn(
            part.stop - part.start, *entry.shape[1:], device=device, dtype=torch.bfloat16
        )
        * 0.02
        + ("norm" in part.name)
        for entry in table(shape)
        for part in entry.parts
    }
    return build_model(shape, state, stop_ids=[2], dtype="bfloat16", device=device)


def measure(model: GlmForCausalLM, batch: int, prompt: int, tokens: int) -> float:
    """Return new tokens per second of decoding, all texts together, prefill left out."""
    ids = torch.randint(1, model.config.vocab_size, (batch, prompt), device=model.device)
    options = {
        "attention_mask": torch.ones_like(ids),
        "do_sample": False,
        "eos_token_id": None,
        "cache_implementation": "static",
        "disable_compile": model.device.type == "cpu",
    }

    def seconds(count: int) -> float:
        wait()
        begin = time.perf_counter()
        out = model.generate(ids, max_new_tokens=count, min_new_tokens=count, **options)
        if out.shape[1] != prompt + count:
            raise RuntimeError(f"expected {count} new tokens, got {out.shape[1] - prompt}")
        wait()
        return time.perf_counter() - begin

    def wait() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        for _ in range(2):  # compiles, and captures the graphs
            seconds(tokens)
        seconds(1)
        first = min(seconds(1) for _ in range(2))
        return batch * (tokens - 1) / (min(seconds(tokens) for _ in range(2)) - first)


def copy_bandwidth() -> float:
    """Return the bytes a second that a copy within the GPU reads and writes together."""
    block = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(block)
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(block)
        torch.cuda.synchronize()
        best = max(best, 2 * block.nbytes / (time.perf_counter() - begin))
    return best


if __name__ == "__main__":
    main()
