"""Writes the tokenizer for plain transformers: tokenizer.json, its settings and a chat template.

Plain AutoTokenizer then gives the official ids for ordinary text and chats. It finds control
tokens by their spelling, also inside a message: only rag.glm.chat keeps text from becoming control.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rag.glm.chat import chat_template
from rag.glm.tokenizer import (
    EOS,
    PAD,
    TOKENIZER_FILE,
    ChatGLM3Tokenizer,
    bpe,
    merges,
)

MATCHED = ("[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""Control tokens that tokenizer.json finds in text, for the template to use; no others."""

_RESPELT = {"sop": "<sop>", "eop": "<eop>"}
"""The official names would be found inside "philosophy" and "people"."""


def spelling(name: str) -> str:
    """Return how tokenizer.json spells a control token of the official name."""
    return _RESPELT.get(name, name)


def save_tokenizer(
    tokenizer: ChatGLM3Tokenizer, source: Path, folder: Path, *, context: int
) -> None:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and tokenizer.model.

    Args:
        tokenizer: What `load_tokenizer` read from `source`.
        source: Folder with the official tokenizer.model, which is copied.
        folder: An existing folder.
        context: Most tokens the model can attend to.
    """
    from tokenizers import AddedToken, processors

    vocabulary = {piece.text: id_ for id_, piece in enumerate(tokenizer.pieces)}
    vocabulary |= {spelling(name): id_ for name, id_ in tokenizer.control.items()}
    backend = bpe(vocabulary, merges(tokenizer.pieces))
    edges = [tokenizer.pieces[id_].text for id_ in (PAD, EOS)]  # not <s>: nothing asks for it
    matched = edges + [spelling(name) for name in MATCHED]
    backend.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in matched]
    )
    prefix = [(spelling(name), tokenizer.control[name]) for name in ("[gMASK]", "sop")]
    start = " ".join(text for text, _ in prefix)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=prefix
    )
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": edges[0],
        "pad_token": edges[0],
        "eos_token": edges[1],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    template = chat_template({name: spelling(name) for name in tokenizer.control})
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
