"""How many tokens a second the engine makes with one, two, four and eight answers at once.

    python -m bench.glm_batch [--layers 4] [--hidden 1024] [--prompt 64] [--tokens 32]

A random float32 model on this CPU; each run asks for as many answers as its batch holds. The ratio
is to a batch of one, in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from rag.glm.config import GlmShape
from rag.glm.engine import Engine, Request
from rag.glm.keys import table
from rag.glm.load import LoadedGlm, build_model
from rag.glm.sampling import Sampling

BATCHES = (1, 2, 4, 8)
ROUNDS = 3


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    wide, heads = 3 * arguments.hidden, arguments.hidden // 128
    shape = GlmShape(arguments.layers, arguments.hidden, wide, heads, 2, 128, 65_024, 8_192)
    generator = torch.Generator().manual_seed(0)
    state = {
        part.name: torch.randn(part.stop - part.start, *entry.shape[1:], generator=generator) * 0.02
        + ("norm" in part.name)
        for entry in table(shape)
        for part in entry.parts
    }
    model = build_model(shape, state, stop_ids=[2], dtype="float32")
    glm = LoadedGlm(model, None, shape, [], "random")
    rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    with Engine(glm, batch_size=max(BATCHES)) as engine:
        for _ in range(ROUNDS + 1):
            for batch in BATCHES:
                rate = _tokens_a_second(engine, batch, arguments.prompt, arguments.tokens)
                rates[batch].append(rate)
    medians = {batch: statistics.median(found[1:]) for batch, found in rates.items()}
    head = {"parameters": shape.parameters, "threads": torch.get_num_threads()}
    found = {
        batch: {"tokens_s": round(rate, 1), "ratio": round(rate / medians[1], 2)}
        for batch, rate in medians.items()
    }
    print(json.dumps({**head, "batches": found}, indent=2))


def _tokens_a_second(engine: Engine, batch: int, prompt: int, tokens: int) -> float:
    """New tokens of all answers together, from the asking to the last one; prompts included."""
    ids = torch.randint(10, 60_000, (batch, prompt)).tolist()
    greedy = Sampling(do_sample=False)
    begin = time.perf_counter()
    asked = [engine.submit(Request(tuple(row), tokens, greedy)) for row in ids]
    made = sum(len(list(generation)) for generation in asked)
    return made / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
