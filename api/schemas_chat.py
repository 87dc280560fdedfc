"""What /v1/chat/completions takes and gives, as OpenAI has it; extensions are named `youju`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import ABSENT, NUMBER, TRUTH, Body, Flag, Metadata, PlainText, Shown
from api.schemas_responses import Account, FileCitation, ModelName


class ChatPart(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: PlainText


class ChatMessage(BaseModel):
    """A message. What an earlier answer came with (annotations) is left aside."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: PlainText | list[ChatPart]

    @property
    def text(self) -> str:
        """All of its text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content


class ChatStreamOptions(Body):
    """Whether a last event tells the usage."""

    include_usage: Flag | None = None
    include_obfuscation: Flag | None = None


class ChatFormat(Body):
    """Answers are plain text."""

    type: Literal["text"]


class ChatCreate(Body):
    """A conversation that ends with a question."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    stream: Flag | None = False
    stream_options: ChatStreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000), NUMBER] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000), NUMBER] | None = None
    temperature: Annotated[float, Field(ge=0, le=2), NUMBER] | None = None
    top_p: Annotated[float, Field(gt=0, le=1), NUMBER] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), NUMBER] | None = None
    n: Annotated[Literal[1], NUMBER] | None = None
    stop: Annotated[list[PlainText], Field(max_length=0), ABSENT] | None = None
    logprobs: Annotated[Literal[False], TRUTH] | None = None
    tools: Annotated[list[Any], Field(max_length=0), ABSENT] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: ChatFormat | None = None
    modalities: list[Literal["text"]] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2), NUMBER] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2), NUMBER] | None = None
    parallel_tool_calls: Flag | None = None
    reasoning_effort: PlainText | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    store: Flag | None = None
    metadata: Metadata | None = None
    user: PlainText | None = None
    safety_identifier: PlainText | None = None
    prompt_cache_key: PlainText | None = None


class UrlCitation(Shown):
    """Where a mark stands in the answer, and an address of the parsed text that it points to."""

    start_index: int
    end_index: int
    title: str
    url: str


class ChatAnnotation(Shown):
    """A citation as chat completions can have it; `file_citation` is an extension."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation
    file_citation: FileCitation


class ChatAnswer(Shown):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[ChatAnnotation]


class ChatChoice(Shown):
    """The one choice there is."""

    index: Literal[0] = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatUsage(Shown):
    """Tokens; of the embedding model's kind where no generator was asked."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatShown(Shown):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    youju: Account | None = None
