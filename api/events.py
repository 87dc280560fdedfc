"""Server-sent events: how they are written, and those of a streamed response."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from api.response_shape import Draft
from api.schemas_responses import FileCitation, FileSearchCall, OutputText, ResponseShown

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Proxies shall pass events on as they come."""

EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "One event of the stream.",
    "properties": {
        "event": {"type": "string", "description": "Its name; the same as `type` in its data."},
        "data": {"type": "string", "description": "JSON; at the end of a chat, `[DONE]`."},
    },
    "required": ["data"],
}
"""How OpenAPI before 3.2 describes a stream: by one of its events."""

DONE = "data: [DONE]\n\n"


def data_only(body: BaseModel | dict[str, Any]) -> str:
    """Return an event without a name, as chat completions have them."""
    return f"data: {_json(body)}\n\n"


class ResponseEvents:
    """Writes the events of one response, numbered."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._number = 0
        self._output = 0  # index of the item that is being written

    def event(self, kind: str, **fields: Any) -> str:  # noqa: ANN401
        """Return one event."""
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\ndata: {_json(body)}\n\n"

    def begin(self) -> str:
        """The response exists."""
        shown = _plain(self._draft.begun())
        created = self.event("response.created", response=shown)
        return created + self.event("response.in_progress", response=shown)

    def search(self, call: FileSearchCall) -> str:
        """The search has been made."""
        place = {"output_index": self._output, "item_id": call.id}
        item = _plain(call)
        begun = {**item, "status": "in_progress", "results": None}
        text = self.event("response.output_item.added", output_index=self._output, item=begun)
        for step in ("in_progress", "searching", "completed"):
            text += self.event(f"response.file_search_call.{step}", **place)
        text += self.event("response.output_item.done", output_index=self._output, item=item)
        self._output += 1
        return text

    def open_message(self) -> str:
        """The answer begins."""
        empty = OutputText(text="", annotations=[])
        item = {
            **_plain(self._draft.message("", [])), "status": "in_progress", "content": [],
        }  # fmt: skip
        added = self.event("response.output_item.added", output_index=self._output, item=item)
        return added + self.event(
            "response.content_part.added", **self._place(), part=_plain(empty)
        )

    def delta(self, text: str) -> str:
        """More of the answer."""
        return self.event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def close_message(self, text: str, cited: list[FileCitation], *, cut: bool) -> str:
        """The answer is whole, and these are its citations."""
        written = ""
        for index, citation in enumerate(cited):
            written += self.event(
                "response.output_text.annotation.added",
                **self._place(),
                annotation_index=index,
                annotation=_plain(citation),
            )
        part = _plain(OutputText(text=text, annotations=cited))
        item = _plain(self._draft.message(text, cited, cut=cut))
        written += self.event("response.output_text.done", **self._place(), text=text, logprobs=[])
        written += self.event("response.content_part.done", **self._place(), part=part)
        return written + self.event(
            "response.output_item.done", output_index=self._output, item=item
        )

    def end(self, shown: ResponseShown) -> str:
        """The response is what it will be."""
        return self.event(f"response.{shown.status}", response=_plain(shown))

    def fail(self, message: str, code: str) -> str:
        """The response failed; nothing follows."""
        shown = self._draft.begun()
        body = {
            **_plain(shown), "status": "failed", "error": {"code": code, "message": message},
        }  # fmt: skip
        return self.event("response.failed", response=body)

    def _place(self) -> dict[str, Any]:
        return {
            "output_index": self._output,
            "content_index": 0,
            "item_id": self._draft.message_id,
        }


def _plain(body: BaseModel) -> dict[str, Any]:
    return body.model_dump(mode="json")


def _json(body: BaseModel | dict[str, Any]) -> str:
    if isinstance(body, BaseModel):
        return body.model_dump_json()
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
