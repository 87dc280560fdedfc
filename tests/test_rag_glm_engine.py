"""Many requests in one batch: each gets what it would get alone, joins, leaves, and is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glm_models import SMALL, quantized, random_tensors, write_official
from glm_serving import GREEDY, alone, ids_of, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError, EngineClosed, PromptTooLong, QueueFull
from rag.glm.engine import Engine
from rag.glm.generation import Request
from rag.glm.load import LoadedGlm, load_chatglm3
from rag.glm.sampling import Sampling


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedGlm:
    return load_chatglm3(write_official(tmp_path_factory.mktemp("engine")), "float32")


@pytest.fixture
def engine(loaded: LoadedGlm) -> Iterator[Engine]:
    made = Engine(loaded.model, stop_ids=[], context=SMALL.context, batch=3, queue=40, chunk=8)
    yield made
    made.close()


class Gate:
    """A model whose every pass waits until the test lets it through; `passes` counts them."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.dtype, self.device = model.dtype, model.device
        self.allowed = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        self.rows: list[int] = []

    def __call__(self, **inputs: Any) -> Any:
        self.reached.release()
        assert self.allowed.acquire(timeout=20)
        self.rows.append(inputs["input_ids"].shape[0])
        return self.model(**inputs)

    def let(self, passes: int) -> None:
        """Let so many passes through, and wait until the next one stands at the gate."""
        for _ in range(passes):
            self.allowed.release()
            assert self.reached.acquire(timeout=20)

    def open(self) -> None:
        for _ in range(10_000):
            self.allowed.release()


@pytest.fixture
def gate(loaded: LoadedGlm) -> Gate:
    return Gate(loaded.model)


# -- what is generated -----------------------------------------------------------------------------

PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(3, 319), min_size=1, max_size=40), st.integers(1, 20)),
    min_size=1,
    max_size=7,
)


@settings(max_examples=12, deadline=None)
@given(PROMPTS)
def test_greedy_in_a_batch_is_greedy_alone(loaded: LoadedGlm, prompts: list[Any]) -> None:
    engine = Engine(loaded.model, stop_ids=[2], context=64, batch=3, queue=9, chunk=8)
    running = [submit(engine, ids, count) for ids, count in prompts]
    for (ids, count), generation in zip(prompts, running, strict=True):
        expected = alone(loaded.model, ids, min(count, 64 - len(ids)), [2])
        stopped = expected[-1] == 2
        assert ids_of(generation) == (expected[:-1] if stopped else expected)
        assert generation.end is not None
        assert (generation.end.reason, generation.end.stop_id) == (
            ("stop", 2) if stopped else ("length", None)
        )
    assert engine.load == 0
    engine.close()


@pytest.mark.parametrize(
    ("folder", "adapter", "kind"),
    [
        ("tiny_chatglm3", None, "A"),
        ("tiny_small", None, "B"),
        ("tiny_small_32k", None, "R50"),
        ("tiny_small", "ptuning_P0", "P0"),
        ("tiny_small", "lora_official", "L"),
    ],
)
def test_the_reference_checkpoints(
    shared_glm: Path, folder: str, adapter: str | None, kind: str
) -> None:
    path = None if adapter is None else shared_glm / adapter
    model = load_chatglm3(shared_glm / folder, "float32", adapter=path)
    arrays = np.load(shared_glm / "expected.npz")
    source = "B" if kind == "L" else kind
    rows = zip(arrays[f"{source}/input_ids"], arrays[f"{source}/attention_mask"], strict=True)
    prompts = [ids[mask == 1].tolist() for ids, mask in rows]
    engine = Engine(model.model, stop_ids=[], context=512, prefix=model.prefix, batch=3)
    running = [submit(engine, ids, 10 + n) for n, ids in enumerate(prompts)]
    for number, (ids, generation) in enumerate(zip(prompts, running, strict=True)):
        got = ids_of(generation)
        if model.prefix is None:
            assert got == alone(model.model, ids, 10 + number)
            continue
        inputs = torch.tensor([ids])
        given_ = model.prefix.generate_inputs(inputs, torch.ones_like(inputs), torch.float32)
        whole = model.model.generate(
            **given_, do_sample=False, max_new_tokens=10 + number, eos_token_id=None,
            temperature=None, top_p=None,
        )  # fmt: skip
        assert got == whole[0, model.prefix.tokens + len(ids) :].tolist()
    engine.close()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model(tmp_path: Path, bits: int) -> None:
    tensors = quantized(random_tensors(SMALL), SMALL, bits)
    folder = write_official(tmp_path, tensors=tensors, quantization_bit=bits)
    model = load_chatglm3(folder, "float32").model
    engine = Engine(model, stop_ids=[], context=SMALL.context, batch=3)
    prompts = [[5, 6, 7], list(range(10, 40)), [9] * 17]
    running = [submit(engine, ids, 10) for ids in prompts]
    assert [ids_of(one) for one in running] == [alone(model, ids, 10) for ids in prompts]
    engine.close()


def test_a_seed_repeats_whatever_runs_beside_it(engine: Engine) -> None:
    def sampled(seed: int | None) -> Request:
        return Request([5, 6, 7], 12, Sampling(temperature=1.5, top_p=0.95, seed=seed))

    first = ids_of(engine.submit(sampled(7)))
    running = [engine.submit(sampled(seed)) for seed in (1, 7, None, 3, 7)]
    made = [ids_of(generation) for generation in running]
    assert made[1] == made[4] == first
    assert made[0] != made[3]


def test_a_seed_repeats_among_equal_logits_whatever_is_looked_at_beside_it(
    loaded: LoadedGlm,
) -> None:
    class Coarse(Gate):  # logits as coarse as those of 16 bits, so that many are equal
        def __call__(self, **inputs: Any) -> Any:
            out = self.model(**inputs)
            out.logits = (out.logits * 2).round() / 2
            return out

    def made(*beside: Sampling) -> list[int]:
        engine = Engine(Coarse(loaded.model), stop_ids=[], context=64, batch=3)
        running = [
            engine.submit(Request([5, 6], 30, Sampling(top_k=50, top_p=1.0, seed=3))),
            *(engine.submit(Request([7, 8], 40, one)) for one in beside),
        ]
        ids = ids_of(running[0])
        engine.close()
        return ids

    assert made() == made(Sampling(top_k=64)) == made(GREEDY, Sampling(top_k=10))


def test_log_probabilities_are_those_of_the_logits(loaded: LoadedGlm, engine: Engine) -> None:
    (token,) = submit(engine, [9, 8, 7], 1, top_logprobs=3)
    logs = loaded.model(input_ids=torch.tensor([[9, 8, 7]])).logits[0, -1].log_softmax(-1)
    best = logs.topk(3)
    assert [id_ for id_, _ in token.top] == best.indices.tolist()
    assert [log for _, log in token.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert token.logprob == pytest.approx(float(logs.max()), abs=1e-5)
    (plain,) = submit(engine, [9, 8, 7], 1)
    assert (plain.logprob, plain.top) == (None, ())


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1)])
def test_an_answer_begins_as_it_must(engine: Engine, sampling: Sampling) -> None:
    generation = submit(
        engine, [5, 6], 6, sampling=sampling, beginnings=[[70, 71, 72], [70, 99, 98]]
    )
    made = ids_of(generation)
    assert made[:3] in ([70, 71, 72], [70, 99, 98])
    assert len(made) == 6


# -- joining and leaving ---------------------------------------------------------------------------


def test_the_first_token_comes_before_anything_else_is_computed(gate: Gate) -> None:
    engine = Engine(gate, stop_ids=[], context=64, batch=2, chunk=8)
    first = iter(submit(engine, [5, 6, 7], 5))
    assert gate.reached.acquire(timeout=20)
    second = submit(engine, [8, 9], 5)
    gate.let(1)  # the first prompt; what stands at the gate is the second one's
    next(first)
    gate.open()
    assert len(ids_of(second)) == 5
    assert len(list(first)) == 4
    assert 2 in gate.rows
    engine.close()


def test_a_prompt_is_cut_the_same_way_whatever_else_is_read(gate: Gate) -> None:
    shapes: list[int] = []
    engine = Engine(gate, stop_ids=[], context=64, batch=3, chunk=8)
    model, gate.model = gate.model, None

    def noted(**inputs: Any) -> Any:
        shapes.append(inputs["input_ids"].shape[1])
        return model(**inputs)

    gate.model = noted
    running = [submit(engine, list(range(5, 5 + length)), 1) for length in (5, 20, 3)]
    gate.open()
    assert [len(ids_of(one)) for one in running] == [1, 1, 1]
    assert shapes == [5, 8, 8, 4, 3]
    engine.close()


def test_a_cancelled_request_frees_its_place_within_a_step(gate: Gate) -> None:
    engine = Engine(gate, stop_ids=[], context=64, batch=1, queue=1, chunk=8)
    first, waiting = submit(engine, [5, 6], 50), submit(engine, [7, 8], 1)
    assert gate.reached.acquire(timeout=20)
    gate.let(3)
    with pytest.raises(QueueFull):
        submit(engine, [1], 1)
    first.cancel()
    gate.let(1)  # the step under way; the pass at the gate now is the waiting one's prompt
    assert gate.rows == [1] * 4
    gate.open()
    assert len(ids_of(waiting)) == 1
    assert len(ids_of(first)) <= 4
    assert first.end is not None
    assert first.end.reason == "cancelled"
    assert engine.load == 0
    engine.close()


def test_what_waits_and_what_is_read_in_can_be_cancelled(gate: Gate) -> None:
    engine = Engine(gate, stop_ids=[], context=64, batch=1, queue=2, chunk=4)
    reading, waiting = submit(engine, list(range(5, 25)), 5), submit(engine, [7, 8], 5)
    last = submit(engine, [9], 2)
    assert gate.reached.acquire(timeout=20)
    reading.cancel()
    waiting.cancel()
    gate.open()
    assert len(ids_of(last)) == 2
    assert ids_of(reading) == ids_of(waiting) == []
    engine.close()


def test_a_full_queue_refuses_at_once(gate: Gate) -> None:
    engine = Engine(gate, stop_ids=[], context=64, batch=2, queue=1)
    taken = [submit(engine, [5, 6], 2) for _ in range(3)]
    with pytest.raises(QueueFull, match=r"2 requests run and 1 wait.*generator_queue"):
        submit(engine, [5, 6], 2)
    gate.open()
    assert [len(ids_of(one)) for one in taken] == [2, 2, 2]
    assert len(ids_of(submit(engine, [5, 6], 2))) == 2
    engine.close()


def test_memory_is_given_back_when_nothing_runs(engine: Engine) -> None:
    assert len(ids_of(submit(engine, [5, 6, 7], 3))) == 3
    engine.close()
    assert engine.cache_bytes == 0


def test_many_threads_at_once(loaded: LoadedGlm, engine: Engine) -> None:
    expected = {first: alone(loaded.model, [first, 9], 6) for first in range(10, 22)}
    got: dict[int, list[int]] = {}

    def ask(first: int) -> None:
        got[first] = ids_of(submit(engine, [first, 9], 6))

    threads = [threading.Thread(target=ask, args=[first]) for first in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


# -- limits ----------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match=r"64 tokens; the model's context is 64"):
        submit(engine, [5] * 64, 1)
    assert engine.load == 0
    generation = submit(engine, [5] * 63, 9)
    assert len(ids_of(generation)) == 1
    assert generation.end is not None
    assert generation.end.reason == "length"


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": []}, {"ids": [-1]}, {"max_new_tokens": 0}, {"top_logprobs": 21},
        {"timeout_s": 0.0}, {"beginnings": [[]]}, {"max_new_tokens": 2.5}, {"max_new_tokens": "9"},
        {"max_new_tokens": True}, {"top_logprobs": 1.5}, {"timeout_s": "9"},
        {"timeout_s": float("inf")},
    ],
)  # fmt: skip
def test_numbers_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Request(**({"ids": [5]} | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"seed": 2**63},
        {"temperature": "1"}, {"temperature": float("nan")}, {"temperature": None},
        {"top_p": None}, {"top_k": 2.5}, {"top_k": "5"}, {"seed": 1.5},
    ],
)  # fmt: skip
def test_sampling_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_an_id_the_model_does_not_know(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="id 320"):
        submit(engine, [320], 1)


def test_close_ends_everything(gate: Gate) -> None:
    engine = Engine(gate, stop_ids=[], context=64, batch=1, queue=1)
    running, waiting = submit(engine, [5, 6], 50), submit(engine, [7], 5)
    assert gate.reached.acquire(timeout=20)
    gate.open()
    engine.close()
    for generation in (running, waiting):
        with pytest.raises(EngineClosed, match="was closed"):
            ids_of(generation)
    with pytest.raises(EngineClosed):
        submit(engine, [5], 1)
    engine.close()
    assert engine.load == 0
