"""Tiny models with random weights, saved as a user would have them; made in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = (
    "the a bolt torque of main is lid open wear goggles invoice paid days within thirty short "
    "keep hands belt away from and your whenever are query passage one two three x b s sep"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
HAN = [chr(0x4E00 + place) for place in range(1200)]


def vocabulary(han: list[str] | None = None) -> dict[str, int]:
    """A WordPiece vocabulary: special tokens, words, letters as first and later pieces, Han."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"[].,</>"]
    pieces += [*WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *(han or [])]
    pieces += [f"##{a}{b}" for a in "aeiou" for b in "bcdfghklmnprst"]
    return {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}


def write_tokenizer(folder: Path, vocab: dict[str, int] | None = None) -> Path:
    """Write folder/tokenizer.json and what transformers wants beside it; return the file."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = vocab or vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 32,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return file


def write_embedder(folder: Path, *, pooling: str = "mean", modules: bool = True) -> Path:
    """Write a random BERT encoder of width 16 in sentence-transformers' layout."""
    from transformers import BertModel

    write_tokenizer(folder)
    BertModel(_config()).save_pretrained(folder)
    if modules:
        package = "sentence_transformers.models"
        write_json(
            folder / "modules.json",
            [
                {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{package}.Normalize"},
            ],
        )
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24})
        write_json(
            folder / "1_Pooling" / "config.json",
            {
                "word_embedding_dimension": 16,
                "pooling_mode_cls_token": pooling == "cls",
                "pooling_mode_mean_tokens": pooling == "mean",
                "pooling_mode_max_tokens": pooling == "max",
            },
        )
    return folder


def write_cross_encoder(folder: Path, labels: int = 1) -> Path:
    """Write a random BERT classifier of pairs."""
    from transformers import BertForSequenceClassification

    write_tokenizer(folder)
    config = _config()
    config.num_labels = labels
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_json(file: Path, value: object) -> None:
    """Write JSON, making the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def _config() -> Any:
    import torch
    from transformers import BertConfig

    torch.manual_seed(7)
    return BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
