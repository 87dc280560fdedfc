"""Many requests at once on one ChatGLM3-shaped model: three ways to serve them, side by side.

    python -m bench.glm_batch [--layers 6] [--hidden 1024] [--requests 8] [--device cpu] ...

Random weights, prompts of 16 to 256 tokens, answers of 16 to 48, all sent at once; greedy, so that
every way must give the same ids. `alone` is transformers' `generate`, one request after the other;
`engine` is rag.glm.engine; `continuous` is transformers' continuous batching (paged attention).
Each way runs once unmeasured, then in turn with the others; the best run counts, set-up left out.
first_token_s is the median over requests, from sending.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from rag.glm.config import GlmShape, native_config
from rag.glm.engine import Engine
from rag.glm.generation import Request
from rag.glm.sampling import Sampling

GREEDY = Sampling(do_sample=False)
Sent = list[tuple[list[int], int]]
Answers = tuple[list[list[int]], list[float], float]
"""The ids of each request, seconds to each one's first token, seconds to the last one's last."""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=1024, help="A multiple of 256.")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = _model(options.layers, options.hidden, options.dtype, options.device)
    numbers = torch.Generator().manual_seed(0)
    sent: Sent = []
    for _ in range(options.requests):
        length = int(torch.randint(16, 257, (1,), generator=numbers))
        ids = torch.randint(3, 60_000, (length,), generator=numbers).tolist()
        sent.append((ids, int(torch.randint(16, 49, (1,), generator=numbers))))
    ways: dict[str, Callable[[Any, Sent], Answers]] = {
        "alone": _alone, "engine": _engine, "continuous": _continuous,
    }  # fmt: skip
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "prompt_tokens": sum(len(ids) for ids, _ in sent),
        "new_tokens": sum(count for _, count in sent),
        "threads": options.threads,
    }
    expected: list[list[int]] = []
    for way in ways.values():
        way(model, [(ids, 2) for ids, _ in sent[:2]])
    for _ in range(options.repeats):
        for name, way in ways.items():
            made, firsts, seconds = way(model, sent)
            expected = expected or made
            if name in found and found[name]["seconds"] < seconds:
                continue
            found[name] = {
                "seconds": round(seconds, 2),
                "tokens_s": round(found["new_tokens"] / seconds, 2),
                "first_token_s": round(statistics.median(firsts), 2),
                "same_ids": sum(a == b for a, b in zip(made, expected, strict=True)),
            }
    print(json.dumps(found, indent=2))


def _model(layers: int, hidden: int, dtype: str, device: str) -> Any:  # noqa: ANN401
    from transformers import GlmConfig, GlmForCausalLM

    shape = GlmShape(layers, hidden, 3 * hidden, hidden // 128, 2, 128, 65024, 8192)
    torch.manual_seed(0)
    config = GlmConfig(**native_config(shape, stop_ids=[2], dtype="float32"))
    model = GlmForCausalLM(config).to(device=device, dtype=getattr(torch, dtype)).eval()
    return model.requires_grad_(False)


def _alone(model: Any, sent: Sent) -> Answers:  # noqa: ANN401
    made, firsts = [], []
    begin = time.perf_counter()
    for ids, count in sent:
        inputs = torch.tensor([ids], device=model.device)
        seen: list[float] = []

        class Watch:
            def put(self, _: object, seen: list[float] = seen) -> None:
                seen.append(time.perf_counter())

            def end(self) -> None: ...

        whole = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=count,
            eos_token_id=None, pad_token_id=0, streamer=Watch(),
        )  # fmt: skip
        made.append(whole[0, len(ids) :].tolist())
        firsts.append(seen[1] - begin)
    return made, firsts, time.perf_counter() - begin


def _engine(model: Any, sent: Sent) -> Answers:  # noqa: ANN401
    engine = Engine(model, stop_ids=[], context=8192, batch=len(sent), queue=0)
    made: list[list[int]] = [[] for _ in sent]
    firsts = [0.0 for _ in sent]
    begin = time.perf_counter()

    def read(number: int, ids: list[int], count: int) -> None:
        for token in engine.submit(Request(ids, count, GREEDY)):
            if not made[number]:
                firsts[number] = time.perf_counter() - begin
            made[number].append(token.id)

    threads = [
        threading.Thread(target=read, args=(number, *one)) for number, one in enumerate(sent)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    engine.close()
    return made, firsts, seconds


def _continuous(model: Any, sent: Sent) -> Answers:  # noqa: ANN401
    from transformers import ContinuousBatchingConfig, GenerationConfig

    plain = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=64)
    # Left to itself it takes most of the memory there is.
    config = ContinuousBatchingConfig(
        page_size=64,
        num_blocks=8 * len(sent),
        max_batch_tokens=512,
        max_requests_per_batch=len(sent),
    )
    made: dict[str, list[int]] = {}
    firsts: dict[str, float] = {}
    left = len(sent)
    with model.continuous_batching_context_manager(
        generation_config=plain, continuous_batching_config=config
    ) as manager:
        begin = time.perf_counter()
        for number, (ids, count) in enumerate(sent):
            manager.add_request(ids, request_id=str(number), max_new_tokens=count, streaming=True)
        for output in manager:
            if output.generated_tokens:
                firsts.setdefault(output.request_id, time.perf_counter() - begin)
                made[output.request_id] = list(output.generated_tokens)
            if output.error:
                raise RuntimeError(output.error)
            left -= bool(output.is_finished())
            if not left:
                break
        seconds = time.perf_counter() - begin
    return [made[str(number)] for number in range(len(sent))], list(firsts.values()), seconds


if __name__ == "__main__":
    main()
