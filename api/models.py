"""The names under which clients ask: for answers from a store, the generator, the embedder."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from api.errors import ApiError
from api.schemas import Shown
from rag.config import Settings

ASSISTANT = "youju"
"""Answers from a store: the one the settings name, or `youju:<store name>`."""

PACKAGED = "all-MiniLM-L6-v2"


class ModelShown(Shown):
    """A name that can be given as `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["youju"] = "youju"


def embedding_model(settings: Settings) -> str:
    """Return the embedder's name; of a folder its last part."""
    return PurePath(settings.embedder_model).name if settings.embedder_model else PACKAGED


def generator_model(settings: Settings) -> str | None:
    """Return the generator's name; of a folder its last part. None for the extractive one."""
    if settings.generator == "extractive":
        return None
    name = settings.generator_model
    local = settings.generator == "chatglm3" and PurePath(name).is_absolute()
    return PurePath(name).name if local else name


def store_named(model: str) -> str | None:
    """Return the store that a model's name asks for; "" for the default, None for no store."""
    if model == ASSISTANT:
        return ""
    return model.removeprefix(ASSISTANT + ":") if model.startswith(ASSISTANT + ":") else None


def check_model(settings: Settings, model: str) -> None:
    """Refuse a name that is neither an assistant's nor the generator's.

    Raises:
        ApiError: 404 naming those that are.
    """
    known = generator_model(settings)
    if store_named(model) is None and model != known:
        names = f"'{ASSISTANT}', '{ASSISTANT}:<store name>'" + (f", {known!r}" if known else "")
        raise ApiError(
            404,
            f"model: got {model[:80]!r}, expected one of {names}.",
            code="model_not_found",
            param="model",
        )
