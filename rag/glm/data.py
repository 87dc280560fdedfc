"""Conversations to training examples: ids, and labels that say which of them are learnt.

Both formats of the official scripts: `finetune_demo`'s conversations, and the older ones whose
`tool` turns hold a call and its result. It reads no files and trains nothing.

A turn of the assistant is learnt together with what ends it: the next turn's role token, or </s>.
System, user and observation text is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rag.errors import ChatError
from rag.glm.chat import Turn, read_turn, turn_ids
from rag.glm.tokenizer import EOS, ChatGLM3Tokenizer

IGNORED = -100
"""Label of an id that is not learnt."""

_TOOLS_PROMPT = (
    "Answer the following questions as best as you can. You have access to the following tools:\n"
)


@dataclass(frozen=True, slots=True)
class Example:
    """A training example.

    Attributes:
        input_ids: [gMASK], sop, the turns, </s>.
        labels: As long; the id where it is learnt, else `IGNORED`. Not shifted: labels[i] is
            input_ids[i], to be predicted from those before it.
    """

    input_ids: list[int]
    labels: list[int]

    def cut(self, length: int) -> Example:
        """Return the first so many ids; the end of a longer example is lost, with its </s>."""
        return Example(self.input_ids[:length], self.labels[:length])


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is asked when it is evaluated.

    Attributes:
        input_ids: The turns before an answer, ending with <|assistant|>.
        expected_ids: The answer, from its metadata line to </s>.
    """

    input_ids: list[int]
    expected_ids: list[int]


def build_example(
    tokenizer: ChatGLM3Tokenizer,
    conversation: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] = (),
) -> Example:
    """Build the example of one conversation.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        conversation: Messages with `role` and `content`, oldest first. A message of the older
            format may have role "tool" with `name`, `parameters` and `observation`, and an
            assistant's `"loss": false` keeps it from being learnt.
        tools: Descriptions for a system turn put first, as the older format does.

    Raises:
        ChatError: If a message is not of that form.
    """
    ids = tokenizer.prefix
    learnt = [False] * len(ids)
    turns = [(Turn("system", _TOOLS_PROMPT + _json(tools)), False)] if tools else []
    for message in conversation:
        turns += _turns(message)
    for turn, learn in turns:
        new = turn_ids(tokenizer, turn)
        ids += new
        learnt += [learn] * len(new)
    ids.append(EOS)
    # An id is learnt if the one before it stands in a learnt turn: so the role token that opens an
    # answer is not, and the one that ends it is.
    learnt = [False, *learnt]
    return Example(ids, [id_ if on else IGNORED for id_, on in zip(ids, learnt, strict=True)])


def build_questions(
    tokenizer: ChatGLM3Tokenizer,
    conversation: Sequence[Mapping[str, Any]],
    *,
    max_input: int,
    max_output: int,
) -> list[Question]:
    """Build one question for each assistant turn, from the turns before it.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        conversation: Messages with `role` and `content`, oldest first.
        max_input: Most ids of the turns before, > 0; what comes later is cut off, and turns that
            begin beyond it ask nothing.
        max_output: Most ids of an expected answer, > 0.

    Raises:
        ChatError: If a message is not of that form.
    """
    questions = []
    ids = tokenizer.prefix
    for message in conversation:
        if len(ids) >= max_input:
            break
        for turn, _ in _turns(message):
            new = turn_ids(tokenizer, turn)
            if turn.role == "assistant":
                answer = [*new[1:], EOS]
                questions.append(Question([*ids[:max_input], new[0]], answer[:max_output]))
            ids += new
    return questions


def tool_call(parameters: Mapping[str, Any]) -> str:
    """Return a tool call as ChatGLM3 writes it: Python source, quoted as Markdown code."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    return f"```python\ntool_call({arguments})\n```"


def _turns(message: Mapping[str, Any]) -> list[tuple[Turn, bool]]:
    if message.get("role") != "tool":
        # Tools beside a message, and metadata, are no part of either format's turns.
        plain = {key: value for key, value in message.items() if key in ("role", "content")}
        turn = read_turn(plain)
        return [(turn, turn.role == "assistant" and bool(message.get("loss", True)))]
    name, parameters = message.get("name"), message.get("parameters")
    if not isinstance(name, str) or not isinstance(parameters, Mapping):
        raise ChatError(
            "A tool turn lacks its name or parameters.",
            do='Expected {"role": "tool", "name": "...", "parameters": {...}, "observation": ...}.',
        )
    observation = message.get("observation")
    shown = (
        observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
    )
    return [
        (Turn("assistant", tool_call(parameters), metadata=name), bool(message.get("loss", True))),
        (Turn("observation", shown), False),
    ]


def _json(value: Sequence[Any]) -> str:
    return json.dumps(list(value), indent=4, ensure_ascii=False)
