"""POST /v1/embeddings: vectors of the embedder that the stores use."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Depends, Response
from pydantic import Field, StringConstraints

from api.access import Reader
from api.errors import ApiError
from api.long import json_answer, written
from api.models import embedding_model
from api.schemas import NUMBER, Body, PlainText, Shown
from api.service import Service, service_of
from rag.schema import FloatArray

router = APIRouter(prefix="/v1", tags=["Embeddings"])
ServiceOf = Annotated[Service, Depends(service_of)]

MOST_TEXTS = 2048
Text = Annotated[PlainText, StringConstraints(min_length=1)]


class EmbeddingRequest(Body):
    """Texts to embed. `input_type` is an extension for models that tell queries from passages."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    model: PlainText
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1), NUMBER] | None = None
    user: PlainText | None = None
    input_type: Literal["passage", "query"] = "passage"


class EmbeddingShown(Shown):
    """A unit vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Shown):
    """Tokens that the texts have; the model reads the first so many of each only."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Shown):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingShown]
    model: str
    usage: EmbeddingUsage


@router.post("/embeddings", response_model=EmbeddingList)
async def create_embeddings(body: EmbeddingRequest, access: Reader, service: ServiceOf) -> Response:
    """Embed texts."""
    name = embedding_model(service.settings)
    if body.model != name:
        raise ApiError(
            404,
            f"model: got {body.model[:80]!r}; the embedding model is {name!r}.",
            code="model_not_found",
            param="model",
        )
    texts = [body.input] if isinstance(body.input, str) else body.input
    dim = await service.run(lambda: service.rag.embedder.dim)  # it may have to be made first
    if body.dimensions not in (None, dim):
        raise ApiError(
            400,
            f"dimensions: got {body.dimensions}; the model has {dim}.",
            code="invalid_parameter",
            param="dimensions",
        )
    return json_answer(await service.run_long(_embed, service, texts, name, body))


def _embed(service: Service, texts: list[str], name: str, asked: EmbeddingRequest) -> bytes:
    """Embed texts and write the answer, which may be long."""
    embedder = service.rag.embedder
    query = asked.input_type == "query"
    vectors = (embedder.encode_queries if query else embedder.encode_passages)(texts)
    tokens = sum(service.rag.tokens.count(texts))
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    return written(
        EmbeddingList(data=[], model=name, usage=usage),
        (
            EmbeddingShown(index=index, embedding=_coded(vector, asked.encoding_format))
            for index, vector in enumerate(vectors)
        ),
    )


def _coded(vector: FloatArray, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
