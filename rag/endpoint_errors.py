"""What an OpenAI-compatible endpoint's clients raise, turned into one-line errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rag.errors import ModelError


@contextmanager
def endpoint_errors(url: str) -> Iterator[None]:
    """Turn a failing call of the endpoint into a ModelError that says what to check.

    Raises:
        ModelError: Instead of the client's own errors.
    """
    import httpx
    import openai

    try:
        yield
    except (openai.APITimeoutError, httpx.TimeoutException) as error:
        raise ModelError(
            f"The generator at {url} did not answer in time.",
            do="Raise generator_timeout, or check the server.",
        ) from error
    except openai.APIConnectionError as error:
        raise ModelError(
            f"Cannot reach the generator at {url}.", do="Check generator_url and the server."
        ) from error
    except httpx.HTTPError as error:
        raise ModelError(
            f"The generator at {url} broke off its answer.", do="Check the server's log."
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
