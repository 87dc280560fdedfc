"""LangChain chat models: today any OpenAI-compatible endpoint (vLLM, llama.cpp, OpenAI, ...).

This module builds the model and turns its faults into one-line errors. What is asked, and what
becomes of the answer, is rag.prompt's and rag.citations' business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rag.errors import ModelError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from rag.config import Settings


def openai_chat_model(settings: Settings) -> BaseChatModel:
    """Return a client of the endpoint that the settings name; nothing is sent yet."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(
        model=settings.generator_model,
        base_url=settings.generator_url,
        # Local servers want no key, the client insists on one.
        api_key=settings.generator_api_key
        if settings.generator_api_key.get_secret_value()
        else SecretStr("none"),
        timeout=settings.generator_timeout,
        max_retries=1,
        temperature=0,
        max_completion_tokens=settings.generator_max_tokens,
    )


@contextmanager
def endpoint_errors(url: str) -> Iterator[None]:
    """Turn a failing call of the endpoint into a ModelError that says what to check.

    Raises:
        ModelError: Instead of the client's own errors.
    """
    import openai

    try:
        yield
    except openai.APITimeoutError as error:
        raise ModelError(
            f"The generator at {url} did not answer in time.",
            do="Raise generator_timeout, or check the server.",
        ) from error
    except openai.APIConnectionError as error:
        raise ModelError(
            f"Cannot reach the generator at {url}.", do="Check generator_url and the server."
        ) from error
    except openai.AuthenticationError as error:
        raise ModelError(
            f"The generator at {url} refused the key.", do="Check generator_api_key."
        ) from error
    except openai.APIStatusError as error:
        detail = " ".join(str(error.message).split())[:300]
        raise ModelError(
            f"The generator at {url} answered {error.status_code}: {detail}",
            do="Check generator_model and the server's log.",
        ) from error
    except openai.OpenAIError as error:
        detail = " ".join(str(error).split())[:300]
        raise ModelError(f"The generator at {url} failed: {detail}.") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # What the client libraries run into when they read a reply of another shape.
        raise ModelError(
            f"What answers at {url} is no OpenAI-compatible chat endpoint: its reply cannot be "
            f"read ({type(error).__name__}).",
            do="Check generator_url; it usually ends in /v1.",
        ) from error
