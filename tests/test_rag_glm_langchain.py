"""LangChain's own standard suites on a tiny ChatGLM3 of random weights.

What a model of random weights cannot show is declared off: it never chooses to call a tool and
never writes valid JSON. That a forced call is parsed is tested in test_rag_glm_chat_model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from glm_models import tiny_chat
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rag.chat_models.chatglm3 import ChatGLM3


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with tiny_chat(tmp_path_factory.mktemp("glm")) as made:
        yield made


class _Tiny:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatGLM3

    @pytest.fixture(autouse=True)
    def _parts(self, parts: dict[str, Any]) -> None:
        self._made = parts

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self._made, "do_sample": False}

    @property
    def supports_model_override(self) -> bool:
        return False  # one model is loaded

    @property
    def has_tool_choice(self) -> bool:
        return False  # one tool by name can be forced, not "any" of several

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0.5, "max_tokens": 12, "stop": []}


class TestUnit(_Tiny, ChatModelUnitTests):  # type: ignore[misc]
    """Construction, parameters, binding of tools, tracing metadata."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {name: self._made[name] for name in ("engine", "tokenizer")}

    @property
    def has_structured_output(self) -> bool:
        return True


class TestIntegration(_Tiny, ChatModelIntegrationTests):  # type: ignore[misc]
    """Calls of every kind: plain, streamed, in batches, asynchronous, with stop strings."""

    @property
    def has_tool_calling(self) -> bool:
        return False  # random weights write no call

    @property
    def has_structured_output(self) -> bool:
        return False  # nor arguments that can be read
