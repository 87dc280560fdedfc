"""Structured output of ChatGLM3: an object, or an error that says why there is none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from glm_serving import scripted
from pydantic import BaseModel

from rag.chat_models import ChatGLM3
from rag.errors import ConfigError, ToolCallError

CALL = "Weather\n```python\ntool_call(city='北京', days=2)\n```"


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    days: int = 1


def saying(folder: Path, text: str, **fields: Any) -> ChatGLM3:
    return ChatGLM3.of(scripted(folder, text, stop="<|observation|>")[0], **fields)


def test_structured_output(tmp_path: Path) -> None:
    model = saying(tmp_path, CALL)
    assert model.with_structured_output(Weather).invoke("x") == Weather(city="北京", days=2)
    schema = Weather.model_json_schema()
    assert model.with_structured_output(schema).invoke("x") == {"city": "北京", "days": 2}
    model.close()


BAD_CALL = "Weather\n```python\ntool_call(city=os.environ)\n```"


@pytest.mark.parametrize("schema", [Weather, Weather.model_json_schema()])
def test_structured_output_that_cannot_be_read_is_an_error(tmp_path: Path, schema: Any) -> None:
    model = saying(tmp_path, BAD_CALL)
    structured = model.with_structured_output(schema)
    with pytest.raises(ToolCallError, match="cannot be read"):
        structured.invoke("x")
    with pytest.raises(ToolCallError, match="cannot be read"):
        list(structured.stream("x"))
    raw: Any = model.with_structured_output(schema, include_raw=True).invoke("x")
    assert raw["parsed"] is None
    assert isinstance(raw["parsing_error"], ToolCallError)
    assert raw["raw"].invalid_tool_calls[0]["name"] == "Weather"
    model.close()


def test_structured_output_in_every_form(tmp_path: Path) -> None:
    model = saying(tmp_path, CALL)
    expected = Weather(city="北京", days=2)
    structured = model.with_structured_output(Weather, method="function_calling", strict=True)
    assert list(structured.stream("x"))[-1] == expected
    raw: Any = model.with_structured_output(Weather, include_raw=True).invoke("x")
    assert (raw["parsed"], raw["parsing_error"]) == (expected, None)
    assert asyncio.run(structured.ainvoke("x")) == expected
    refused: tuple[dict[str, Any], ...] = ({"method": "json"}, {"methd": "x"})
    for wrong in refused:
        with pytest.raises(ConfigError, match=r"'json'|methd"):
            model.with_structured_output(Weather, **wrong)
    model.close()


def test_structured_output_that_is_cut_off(tmp_path: Path) -> None:
    model = saying(tmp_path, CALL, max_tokens=20)
    with pytest.raises(ToolCallError, match="cut off"):
        model.with_structured_output(Weather).invoke("x")
    model.close()
