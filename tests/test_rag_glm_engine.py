"""The engine: a batch whose requests come and go gives what each would have got alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_models import random_tensors, write_official
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import GeneratorBusy, ModelError, PromptTooLong
from rag.glm.engine import Engine, Request
from rag.glm.load import LoadedGlm, load_chatglm3
from rag.glm.sampling import Sampling, choose

GREEDY = Sampling(do_sample=False)
PROMPTS = [
    tuple(torch.randint(3, 300, (n,), generator=torch.Generator().manual_seed(n)).tolist())
    for n in (5, 1, 17, 9, 30, 3, 12, 8, 21)
]


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> LoadedGlm:
    tensors = {name: tensor * 0.2 for name, tensor in random_tensors().items()}
    folder = tmp_path_factory.mktemp("glm") / "model"
    return load_chatglm3(write_official(folder, tensors=tensors), "float32")


def alone(glm: LoadedGlm, ids: tuple[int, ...], count: int, **more: Any) -> list[int]:
    """What transformers' own generate gives for one prompt."""
    with torch.inference_mode():
        out = glm.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=count,
            do_sample=False, eos_token_id=glm.stop_ids, **more,
        )  # fmt: skip
    return [id_ for id_ in out[0].tolist()[len(ids) :] if id_ not in glm.stop_ids]


@pytest.mark.parametrize(("batch", "chunk"), [(1, 256), (4, 256), (4, 4), (9, 3)])
def test_a_batch_gives_what_each_gets_alone(glm: LoadedGlm, batch: int, chunk: int) -> None:
    with Engine(glm, batch_size=batch, prompt_chunk=chunk) as engine:
        asked = [engine.submit(Request(ids, 6 + 2 * n, GREEDY)) for n, ids in enumerate(PROMPTS)]
        found = [[token.id for token in generation] for generation in asked]
    assert found == [alone(glm, ids, 6 + 2 * n) for n, ids in enumerate(PROMPTS)]
    assert all(generation.finish_reason in ("stop", "length") for generation in asked)


def test_many_threads_at_once(glm: LoadedGlm) -> None:
    expected = [alone(glm, ids, 8) for ids in PROMPTS]
    wrong: list[int] = []

    def ask(place: int) -> None:
        for _ in range(3):
            made = [token.id for token in engine.submit(Request(PROMPTS[place], 8, GREEDY))]
            if made != expected[place]:
                wrong.append(place)

    with Engine(glm, batch_size=4) as engine:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(PROMPTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_reference_model_in_a_batch(shared_glm: Path) -> None:
    glm = load_chatglm3(shared_glm / "tiny_small", "float32")
    with Engine(glm, batch_size=3, prompt_chunk=7) as engine:
        asked = [engine.submit(Request(ids, 10, GREEDY)) for ids in PROMPTS]
        found = [[token.id for token in generation] for generation in asked]
    assert found == [alone(glm, ids, 10) for ids in PROMPTS]


def test_a_prefix_stands_before_every_text(shared_glm: Path) -> None:
    base = shared_glm / "tiny_small"
    glm = load_chatglm3(base, "float32", adapter=shared_glm / "ptuning_P0")
    assert glm.prefix is not None
    expected = []
    for ids in PROMPTS:
        inputs = glm.prefix.generate_inputs(
            torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), torch.float32
        )
        with torch.inference_mode():
            out = glm.model.generate(
                **inputs, max_new_tokens=10, do_sample=False, eos_token_id=glm.stop_ids
            )
        made = out[0].tolist()[glm.prefix.tokens + len(ids) :]
        expected.append([id_ for id_ in made if id_ not in glm.stop_ids])
    with Engine(glm, batch_size=3, prompt_chunk=7) as engine:
        asked = [engine.submit(Request(ids, 10, GREEDY)) for ids in PROMPTS]
        assert [[token.id for token in generation] for generation in asked] == expected


class Paced:
    """A model that waits for a signal before every step, and can fail."""

    def __init__(self, glm: LoadedGlm) -> None:
        self.glm = glm
        self.gate = threading.Semaphore(0)
        self.steps = 0
        self.error: dict[int, BaseException] = {}
        """What to raise, by the number of texts in the batch."""
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.glm.model, name)

    def __call__(self, **inputs: Any) -> Any:
        self.gate.acquire()
        self.steps += 1
        self.rows.append(len(inputs["input_ids"]))
        found = self.glm.model(**inputs)
        if error := self.error.get(len(inputs["input_ids"])):
            raise error  # with the cache changed already
        return found

    def go(self, steps: int = 10_000) -> None:
        for _ in range(steps):
            self.gate.release()


@pytest.fixture
def paced(glm: LoadedGlm) -> Iterator[Paced]:
    model = Paced(glm)
    yield model
    model.go()


def engine_of(paced: Paced, **options: int) -> Engine:
    return Engine(replace(paced.glm, model=paced), **options)


def test_a_full_queue_refuses_at_once_and_frees_again(paced: Paced) -> None:
    with engine_of(paced, batch_size=2, queue_size=1) as engine:
        asked = [engine.submit(Request(PROMPTS[n], 4, GREEDY)) for n in range(3)]
        with pytest.raises(GeneratorBusy, match="generator_queue"):
            engine.submit(Request(PROMPTS[3], 4, GREEDY))
        paced.go()
        for generation in asked:
            assert list(generation)
        assert list(engine.submit(Request(PROMPTS[3], 4, GREEDY)))


def test_the_first_token_comes_before_the_second_is_made(paced: Paced) -> None:
    with engine_of(paced) as engine:
        tokens = iter(engine.submit(Request(PROMPTS[0], 4, GREEDY)))
        paced.go(1)
        assert next(tokens).id == alone(paced.glm, PROMPTS[0], 1)[0]
        assert paced.steps == 1
        paced.go()


def test_cancelling_frees_the_place_within_one_step(paced: Paced) -> None:
    with engine_of(paced, batch_size=2) as engine:
        first = engine.submit(Request(PROMPTS[0], 30, GREEDY))
        second = engine.submit(Request(PROMPTS[1], 6, GREEDY))
        third = engine.submit(Request(PROMPTS[2], 6, GREEDY))
        tokens = iter(first)
        paced.go(4)
        next(tokens)
        first.cancel()
        paced.go()
        assert [token.id for token in second] == alone(paced.glm, PROMPTS[1], 6)
        assert [token.id for token in third] == alone(paced.glm, PROMPTS[2], 6)
        list(tokens)
        assert first.finish_reason == "cancelled"
        assert len(paced.rows) < 25


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("odd")]
)
def test_a_step_that_fails_costs_the_youngest_and_no_other(
    paced: Paced, error: BaseException
) -> None:
    paced.error = {3: error}
    with engine_of(paced, batch_size=3) as engine:
        asked = [engine.submit(Request(PROMPTS[n], 8, GREEDY)) for n in range(3)]
        paced.go()
        for place in (0, 1):
            assert [t.id for t in asked[place]] == alone(paced.glm, PROMPTS[place], 8)
        with pytest.raises(ModelError, match=r"Memory ran out|failed: odd"):
            list(asked[2])
        paced.error = {}
        assert list(engine.submit(Request(PROMPTS[2], 8, GREEDY)))


def test_nonsense_from_the_model_is_a_named_error_for_that_request(glm: LoadedGlm) -> None:
    class Broken(Paced):
        def __call__(self, **inputs: Any) -> Any:
            found = self.glm.model(**inputs)
            if inputs["input_ids"].shape[1] == len(PROMPTS[1]):
                found.logits[:] = float("nan")
            return found

    with engine_of(Broken(glm)) as engine:
        good, bad = (engine.submit(Request(PROMPTS[n], 5, GREEDY)) for n in (0, 2))
        worse = engine.submit(Request(PROMPTS[1], 5, GREEDY))
        with pytest.raises(ModelError, match="NaN or infinite"):
            list(worse)
        assert (good.finish_reason, bad.finish_reason) != ("cancelled", "cancelled")


def test_closing_ends_everything_by_name(paced: Paced) -> None:
    engine = engine_of(paced, batch_size=1)
    asked = [engine.submit(Request(PROMPTS[0], 30, GREEDY)) for _ in range(2)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    paced.go()
    closing.join(10)
    assert not closing.is_alive()
    for generation in asked:
        with pytest.raises(ModelError, match="shut down"):
            list(generation)
    with pytest.raises(ModelError, match="shut down"):
        engine.submit(Request(PROMPTS[0], 3, GREEDY))


def test_what_cannot_be_asked_is_refused(glm: LoadedGlm) -> None:
    with Engine(glm) as engine:
        with pytest.raises(PromptTooLong, match=r"64 tokens; .* reads 64"):
            engine.submit(Request((5,) * 64, 1, GREEDY))
        for request in (Request((), 1), Request((5,), 0), Request((400,), 1), Request((-1,), 1)):
            with pytest.raises(ValueError, match="expected"):
                engine.submit(request)
        last = engine.submit(Request((5,) * 60, 100, GREEDY))
        assert len(list(last)) <= 4, "the context ends the answer"
    with pytest.raises(ValueError, match="batch_size"):
        Engine(glm, batch_size=0)


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=40), st.floats(0.01, 1), st.integers(0, 99)
)
def test_only_the_most_probable_are_drawn(row: list[float], top_p: float, seed: int) -> None:
    logits = torch.tensor(row)
    sampling = Sampling(temperature=1.0, top_p=top_p, seed=seed)
    id_, logprob = choose(logits, sampling, sampling.generator())
    chances = torch.softmax(logits, -1)
    above = float(chances[chances > chances[id_]].sum())
    assert above < top_p + 1e-5
    assert logprob == pytest.approx(float(chances[id_].log()), abs=1e-4)
    assert choose(logits, sampling, sampling.generator())[0] == id_
    assert choose(logits, GREEDY, GREEDY.generator())[0] == int(logits.argmax())


def test_sampling_out_of_range_is_refused() -> None:
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="expected temperature"):
            Sampling(**wrong)  # type: ignore[arg-type]
