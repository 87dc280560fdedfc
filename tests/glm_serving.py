"""Tiny models to serve: one with random weights on disk, and one that says what a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from glm_models import SMALL, write_official
from glm_tokenizers import write_model

from rag.glm.engine import Engine
from rag.glm.generation import Generation, Request
from rag.glm.load import LoadedGlm
from rag.glm.sampling import Sampling
from rag.glm.tokenizer import load_tokenizer

CHATTY = replace(SMALL, context=1024)
"""Room enough for a chat with tools, whose bytes are tokens here."""

GREEDY = Sampling(do_sample=False)


def write_chatty(folder: Path) -> Path:
    """A complete official folder: random weights and the hand-written tokenizer."""
    write_model(folder)
    return write_official(folder, CHATTY)


def alone(model: Any, ids: Sequence[int], count: int, stop: Sequence[int] = ()) -> list[int]:
    """What transformers' own greedy `generate` gives for one text."""
    inputs = torch.tensor([list(ids)])
    out = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=count,
        eos_token_id=list(stop) or None, temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    made: list[int] = out[0, len(ids) :].tolist()
    return made


def submit(engine: Engine, ids: Sequence[int], count: int, **more: Any) -> Generation:
    return engine.submit(Request(list(ids), count, more.pop("sampling", GREEDY), **more))


def ids_of(generation: Generation) -> list[int]:
    return [token.id for token in generation]


@dataclass
class Scripted:
    """A model that answers any prompt with the given ids, one text at a time.

    Attributes:
        reply: The ids; after them comes `then`.
        then: Usually a stop id.
        size: Rows of its vocabulary.
    """

    reply: Sequence[int]
    then: int
    size: int = 320

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(
            num_hidden_layers=1, num_key_value_heads=1, head_dim=2, vocab_size=self.size
        )
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.prompt = 0
        self.asked: list[list[int]] = []

    def __call__(self, *, input_ids: Any, position_ids: Any, **_: Any) -> Any:
        if input_ids.shape[1] > 1:
            if int(position_ids[0, 0]) == 0:
                self.asked.append([])
            self.asked[-1] += input_ids[0].tolist()
            self.prompt = int(position_ids[0, -1])
        logits = torch.zeros(1, 1, self.size)
        at = int(position_ids[0, -1]) - self.prompt
        logits[0, 0, self.reply[at] if at < len(self.reply) else self.then] = 9.0
        return SimpleNamespace(logits=logits)


def scripted(folder: Path, text: str, *, stop: str = "</s>") -> tuple[LoadedGlm, Scripted]:
    """A loaded model that answers with the text; "<|assistant|>" in it is the control token.

    Args:
        folder: Where tokenizer.model may be written.
        text: The answer, first line included.
        stop: What ends it: "</s>" or a control token's name.
    """
    tokenizer = load_tokenizer(write_model(folder))
    ids: list[int] = []
    for number, part in enumerate(text.split("<|assistant|>")):
        if number:
            ids.append(tokenizer.control["<|assistant|>"])
        head, line, rest = part.partition("\n")
        ids += tokenizer.encode(head + line) + tokenizer.encode(rest)
    model = Scripted(ids, 2 if stop == "</s>" else tokenizer.control[stop])
    loaded: Any = LoadedGlm(model, tokenizer, CHATTY, tokenizer.stop_ids, "tiny/scripted")
    return loaded, model
