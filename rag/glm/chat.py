"""ChatGLM3's chat format: turns to ids, each segment encoded on its own.

The one place that knows it: serving, training and the saved chat template go by this. It builds
ids, never text with control tokens in it, so that nobody can write himself into another role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from rag.errors import ChatError, CheckpointError
from rag.glm.tokenizer import ChatGLM3Tokenizer

GlmRole: TypeAlias = Literal["system", "user", "assistant", "observation"]
ROLES: tuple[str, ...] = get_args(GlmRole)

ONE_SPACE_EACH = " "
"""Before a template's content: tokenized, it is the "▁" with which a segment of its own begins."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat as ChatGLM3 sees it.

    Attributes:
        role: Who speaks; an observation is what a tool gave back.
        content: What is said; plain text.
        metadata: For an assistant's turn that calls a tool, the tool's name; else "".
        tools: Descriptions of the tools, for a system turn; put behind its content as JSON.

    Raises:
        ChatError: If the role is another.
    """

    role: GlmRole
    content: str
    metadata: str = ""
    tools: Sequence[Any] = field(default=())

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ChatError(
                f"Unknown role {self.role!r} in a chat.", do=f"Roles are {', '.join(ROLES)}."
            )


def read_turn(message: Mapping[str, Any]) -> Turn:
    """Read a message in the official form: role, content and perhaps metadata and tools.

    Raises:
        ChatError: If role or content is missing or not text, or the role is another.
    """
    role, content = message.get("role"), message.get("content")
    metadata = message.get("metadata") or ""
    if not isinstance(role, str) or not isinstance(content, str) or not isinstance(metadata, str):
        raise ChatError(
            "A message lacks its role or content, or they are not text.",
            do='Expected {"role": "user", "content": "..."}.',
        )
    return Turn(role, content, metadata, message.get("tools") or ())  # type: ignore[arg-type]


def turn_ids(tokenizer: ChatGLM3Tokenizer, turn: Turn) -> list[int]:
    """Return role id + encode(metadata + newline) + encode(content)."""
    content = turn.content
    if turn.role == "system" and turn.tools:
        content += "\n" + json.dumps(list(turn.tools), indent=4, ensure_ascii=False)
    return [
        tokenizer.control[f"<|{turn.role}|>"],
        *tokenizer.encode(f"{turn.metadata}\n"),
        *tokenizer.encode(content),
    ]


def prompt_ids(tokenizer: ChatGLM3Tokenizer | None, turns: Sequence[Turn]) -> list[int]:
    """Return the ids that ask the model for the next assistant turn.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        turns: Oldest first; the last one is usually a user's or an observation.

    Returns:
        [gMASK], sop, the turns, <|assistant|>: what the official build_chat_input gives.

    Raises:
        CheckpointError: If there is no tokenizer, as with a model whose folder had none.
    """
    if tokenizer is None:
        raise CheckpointError(
            "The model came without a tokenizer.",
            do="Copy tokenizer.model into its folder, and load it again.",
        )
    ids = tokenizer.prefix
    for turn in turns:
        ids += turn_ids(tokenizer, turn)
    return [*ids, tokenizer.control["<|assistant|>"]]


def chat_template(control_text: Mapping[str, str]) -> str:
    """Return the Jinja template with which plain transformers gives the same ids.

    Args:
        control_text: How tokenizer.json spells the control tokens, by their official name.
    """
    start = control_text["[gMASK]"] + control_text["sop"]
    return (
        "{{- '" + start + "' }}\n"
        "{%- for message in messages %}\n"
        "{%- if message.role not in " + json.dumps(ROLES) + " %}\n"
        "{{- raise_exception('Unknown role ' + message.role) }}\n"
        "{%- endif %}\n"
        "{%- set content = message.content or '' %}\n"
        "{%- set given = message.tools or (tools if loop.first and tools else none) %}\n"
        "{%- if message.role == 'system' and given %}\n"
        "{%- set content = content + '\\n' + given | tojson(indent=4) %}\n"
        "{%- endif %}\n"
        "{{- '<|' + message.role + '|>' + (message.metadata or '') + '\\n' }}\n"
        "{%- if content %}{{- '" + ONE_SPACE_EACH + "' + content }}{%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}\n"
    )
