"""What /v1/responses takes and gives, as OpenAI has it; extensions are in fields named `youju`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.schemas import NUMBER, TRUTH, Body, Flag, Metadata, ObjectId, PlainText, Shown
from api.schemas_search import FilterJson, RankingOptions

MOST_STORES = 8

ModelName = Annotated[PlainText, StringConstraints(min_length=1, max_length=300)]


class InputPart(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["input_text", "output_text", "text"]
    text: PlainText


class InputItem(BaseModel):
    """A message of the conversation, or an output item that is sent back.

    What comes with an item of an earlier output (annotations, results) is left aside.
    """

    model_config = ConfigDict(extra="ignore")

    type: Literal["message", "file_search_call"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: PlainText | list[InputPart] | None = None

    @model_validator(mode="after")
    def _message(self) -> InputItem:
        if self.type == "message" and (self.role is None or self.content is None):
            raise ValueError("a message needs role and content")
        return self

    @property
    def text(self) -> str:
        """All of its text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class FileSearchTool(Body):
    """Answers come from these stores."""

    type: Literal["file_search"]
    vector_store_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=MOST_STORES)]
    filters: FilterJson | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50), NUMBER] | None = None
    ranking_options: RankingOptions | None = None


class FileSearchChoice(Body):
    """The tool must be used; it always is."""

    type: Literal["file_search"]


class TextFormat(Body):
    """Answers are plain text."""

    type: Literal["text"] = "text"


class TextSettings(Body):
    """How text is written."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(Body):
    """Taken and not needed: events are not padded."""

    include_obfuscation: Flag | None = None


class ResponseCreate(Body):
    """A question, the conversation before it, and where the answer is to come from."""

    model: ModelName
    input: PlainText | Annotated[list[InputItem], Field(min_length=1, max_length=1000)]
    instructions: PlainText | None = None
    previous_response_id: ObjectId | None = None
    tools: Annotated[list[FileSearchTool], Field(max_length=1)] | None = None
    tool_choice: Literal["auto", "none", "required"] | FileSearchChoice = "auto"
    include: list[Literal["file_search_call.results"]] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000), NUMBER] | None = None
    metadata: Metadata | None = None
    stream: Flag | None = False
    stream_options: StreamOptions | None = None
    store: Flag | None = True
    temperature: Annotated[float, Field(ge=0, le=2), NUMBER] | None = None
    top_p: Annotated[float, Field(gt=0, le=1), NUMBER] | None = None
    text: TextSettings | None = None
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: Flag | None = None
    max_tool_calls: Annotated[int, Field(ge=1), NUMBER] | None = None
    background: Annotated[Literal[False], TRUTH] | None = None
    reasoning: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    user: PlainText | None = None
    safety_identifier: PlainText | None = None
    prompt_cache_key: PlainText | None = None


class Evidence(Shown):
    """Where a citation points: exactly `quote` is the parsed text from `start` to `end`."""

    quote: str
    start: int
    end: int
    page: int | None
    score: float
    vector_store_id: str | None = None


class FileCitation(Shown):
    """A citation; `index` is where its mark stands in the text."""

    type: Literal["file_citation"] = "file_citation"
    file_id: str
    filename: str
    index: int
    youju: Evidence


class OutputText(Shown):
    """The answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[FileCitation]
    logprobs: list[Any] = Field(default_factory=list)


class OutputMessage(Shown):
    """The message with the answer."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FoundPassage(Shown):
    """A passage that the search found."""

    file_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, bool | int | float | str]


class FileSearchCall(Shown):
    """The search that was made; its results are there if they were asked for."""

    type: Literal["file_search_call"] = "file_search_call"
    id: str
    status: Literal["in_progress", "searching", "completed"]
    queries: list[str]
    results: list[FoundPassage] | None = None


class CachedTokens(Shown):
    """Nothing is cached between requests."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class ReasoningTokens(Shown):
    """Nothing is thought aloud."""

    reasoning_tokens: int = 0


class Usage(Shown):
    """Tokens; of the embedding model's kind where no generator was asked."""

    input_tokens: int
    input_tokens_details: CachedTokens = Field(default_factory=CachedTokens)
    output_tokens: int
    output_tokens_details: ReasoningTokens = Field(default_factory=ReasoningTokens)
    total_tokens: int


class Account(Shown):
    """How the answer came about.

    `refused`: the documents hold too little evidence. `confidence`: the evidence, in [0, 1].
    `unsupported`: sentences that no passage supports. `dropped`: passages for which the prompt had
    no room. `standalone`: what a follow-up question was understood as. `ignored`: settings of the
    request that had no effect. `timings`: seconds by step.
    """

    refused: bool
    confidence: float
    unsupported: list[str]
    dropped: int
    standalone: str | None
    ignored: list[str]
    timings: dict[str, float]


class Fault(Shown):
    """Why there is no answer."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class Incomplete(Shown):
    """Why the answer was cut off."""

    reason: Literal["max_output_tokens"]


class ResponseShown(Shown):
    """An answer."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: Fault | None = None
    incomplete_details: Incomplete | None = None
    model: str
    instructions: str | None = None
    previous_response_id: str | None = None
    output: list[FileSearchCall | OutputMessage]
    tools: list[FileSearchTool]
    tool_choice: Literal["auto", "none", "required"] | FileSearchChoice
    parallel_tool_calls: bool = False
    metadata: dict[str, str]
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: TextSettings
    truncation: Literal["auto", "disabled"] = "disabled"
    store: bool = True
    usage: Usage | None = None
    youju: Account | None = None


class ResponseDeleted(Shown):
    """What is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class FeedbackCreate(Body):
    """What a user thinks of an answer. `correction` is the answer that would have been right."""

    rating: Literal["up", "down"]
    correction: Annotated[PlainText, StringConstraints(min_length=1, max_length=20_000)] | None = (
        None
    )
    comment: Annotated[PlainText, StringConstraints(max_length=4000)] | None = None


class FeedbackShown(Shown):
    """What a user thought of an answer."""

    id: str
    object: Literal["response.feedback"] = "response.feedback"
    created_at: int
    response_id: str
    rating: Literal["up", "down"]
    correction: str | None
    comment: str | None
