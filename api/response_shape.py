"""Builds the objects of /v1/responses: the response, its output items, its citations."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from api.answering import Asked
from api.schemas_responses import (
    Account,
    Evidence,
    FileCitation,
    FileSearchCall,
    FoundPassage,
    Incomplete,
    OutputMessage,
    OutputText,
    ResponseCreate,
    ResponseShown,
    TextFormat,
    TextSettings,
    Usage,
)
from rag.schema import Answer, Hit
from rag.store.ids import new_id
from rag.talk import Said

_MARK = re.compile(r"\[(\d{1,3})\]")


@dataclass(slots=True)
class Draft:
    """A response while it comes about.

    Attributes:
        body: The request.
        asked: As it was understood.
        ignored: Settings of the request that have no effect.
        id, message_id, search_id: Of the response and its items.
        created_at: Unix seconds.
        holders: Ids of the stores that hold the files of the citations, by the files' ids.
    """

    body: ResponseCreate
    asked: Asked
    ignored: list[str]
    id: str = field(default_factory=lambda: new_id("resp_"))
    message_id: str = field(default_factory=lambda: new_id("msg_"))
    search_id: str = field(default_factory=lambda: new_id("fs_"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    holders: Mapping[str, str] = field(default_factory=dict)

    def begun(self) -> ResponseShown:
        """Return the response as it is before there is an answer."""
        return self._shown("in_progress", [])

    def search_call(
        self, hits: Sequence[Hit], attributes: Mapping[str, dict[str, bool | int | float | str]]
    ) -> FileSearchCall:
        """Return the item that tells of the search, with its results if they were asked for."""
        results = None
        if "file_search_call.results" in (self.body.include or []):
            results = [
                FoundPassage(
                    file_id=hit.chunk.file_id,
                    filename=hit.chunk.file,
                    score=hit.score,
                    text=hit.chunk.text,
                    attributes=attributes.get(hit.chunk.file_id, {}),
                )
                for hit in hits
            ]
        return FileSearchCall(
            id=self.search_id,
            status="completed",
            queries=[self.asked.options.standalone or self.asked.question],
            results=results,
        )

    def answered(
        self, search_call: FileSearchCall | None, answer: Answer, hits: Sequence[Hit], usage: Usage
    ) -> ResponseShown:
        """Return the finished response of an answer from documents."""
        account = account_of(answer, self.asked, self.ignored)
        cited = citations(answer, self.holders)
        message = self.message(answer.text, cited, cut=answer.finish == "length")
        items: list[FileSearchCall | OutputMessage] = [message]
        if search_call is not None:
            items.insert(0, search_call)
        shown = self._shown(
            "incomplete" if answer.finish == "length" else "completed", items, usage, account
        )
        shown.metadata["refused"] = "true" if answer.refused else "false"
        return shown

    def said(self, said: Said, usage: Usage) -> ResponseShown:
        """Return the finished response of the generator alone."""
        cut = said.finish == "length"
        message = self.message(said.text, [], cut=cut)
        return self._shown("incomplete" if cut else "completed", [message], usage)

    def message(
        self, text: str, annotations: list[FileCitation], *, cut: bool = False
    ) -> OutputMessage:
        """Return the item with the answer."""
        return OutputMessage(
            id=self.message_id,
            status="incomplete" if cut else "completed",
            content=[OutputText(text=text, annotations=annotations)],
        )

    def _shown(
        self,
        status: str,
        output: list[FileSearchCall | OutputMessage],
        usage: Usage | None = None,
        account: Account | None = None,
    ) -> ResponseShown:
        body = self.body
        return ResponseShown.model_validate(
            {
                "id": self.id,
                "created_at": self.created_at,
                "completed_at": int(time.time()) if status == "completed" else None,
                "status": status,
                "incomplete_details": Incomplete(reason="max_output_tokens")
                if status == "incomplete"
                else None,
                "model": body.model,
                "instructions": body.instructions,
                "previous_response_id": body.previous_response_id,
                "output": output,
                "tools": body.tools or [],
                "tool_choice": body.tool_choice,
                "metadata": dict(body.metadata or {}),
                "max_output_tokens": body.max_output_tokens,
                "temperature": body.temperature,
                "top_p": body.top_p,
                "text": body.text or TextSettings(format=TextFormat()),
                "store": body.store is not False,
                "usage": usage,
                "youju": account,
            }
        )


def account_of(answer: Answer, asked: Asked, ignored: list[str]) -> Account:
    """Return how an answer came about."""
    return Account(
        refused=answer.refused,
        confidence=round(answer.confidence, 4),
        unsupported=list(answer.unsupported),
        dropped=answer.dropped,
        standalone=asked.options.standalone or None,
        ignored=ignored,
        timings={step: round(spent, 4) for step, spent in answer.timings.items()},
    )


def citations(answer: Answer, holders: Mapping[str, str]) -> list[FileCitation]:
    """Return an answer's citations with the places of their marks, in the order of the marks.

    Args:
        answer: Whose they are.
        holders: Ids of the stores that hold the cited files, by the files' ids.
    """
    places: dict[int, int] = {}
    for match in _MARK.finditer(answer.text):
        places.setdefault(int(match[1]), match.start())
    return [
        FileCitation(
            file_id=cited.file_id,
            filename=cited.file,
            index=places.get(number, len(answer.text)),
            youju=Evidence(
                quote=cited.quote,
                start=cited.start,
                end=cited.end,
                page=cited.page,
                score=cited.score,
                vector_store_id=holders.get(cited.file_id),
            ),
        )
        for number, cited in enumerate(answer.citations, 1)
    ]


def usage_of(tokens: Mapping[str, int], question: int, text: int) -> Usage:
    """Return what was used: as the generator counts, else as the embedder counts."""
    spent, made = tokens.get("input", question), tokens.get("output", text)
    return Usage(input_tokens=spent, output_tokens=made, total_tokens=spent + made)
