"""LangChain's own standard suites, on a tiny model with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from glm_serving import write_chatty

from rag.chat_models import ChatGLM3

pytest.importorskip("langchain_tests", reason="needs langchain-tests, of the extra dev")
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    _Claims.folder = write_chatty(tmp_path_factory.mktemp("model"))


class _Claims:
    folder: ClassVar[Path]

    @property
    def chat_model_class(self) -> type[ChatGLM3]:
        return ChatGLM3

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder)}

    @property
    def supports_model_override(self) -> bool:
        return False  # one object holds one model in memory

    @property
    def supports_json_mode(self) -> bool:
        return False  # ChatGLM3 has none


class TestUnit(_Claims, ChatModelUnitTests):  # type: ignore[misc]
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # All but max_retries: there is no network in between, nothing to try again.
        return {"temperature": 0, "max_tokens": 100, "timeout": 60, "stop": []}


class TestIntegration(_Claims, ChatModelIntegrationTests):  # type: ignore[misc]
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"dtype": "float32", "max_tokens": 8, "seed": 1}

    @property
    def has_tool_calling(self) -> bool:
        return False  # random weights write no parameters; scripted ones do, in another test

    @property
    def has_tool_choice(self) -> bool:
        return False  # the same

    @property
    def has_structured_output(self) -> bool:
        return False  # the same
