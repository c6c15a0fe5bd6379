"""The models of the vendors, by pydantic-ai. Imported when a model is asked: it is an extra, and takes a second."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from orchestration.analysis import ModelOptions
from orchestration.errors import BadSetting
from orchestration.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx2
    from pydantic_ai.models import Model

_OPENAI_URL = "https://api.openai.com/v1"
_ANTHROPIC_URL = "https://api.anthropic.com"
_OLLAMA_URL = "http://127.0.0.1:11434/v1"

_CONNECT_SECONDS = 5.0


def ensure_installed() -> None:
    """Check that the packages are there which ask models.

    Raises:
        BadSetting: they are not.
    """
    if find_spec("pydantic_ai") is None:
        raise BadSetting(
            "Analysis by a model needs packages that are not installed: pip install 'alert-pipeline[model]', "
            "or uv sync --extra model"
        )


@asynccontextmanager
async def open_model(options: ModelOptions) -> AsyncGenerator[Model]:
    """The model, with connections of its own.

    Raises:
        BadSetting: the packages that ask models are not installed.
    """
    ensure_installed()
    import httpx2

    from tasks.analyze.model.bounded_client import BoundedClient, trusted

    limit = httpx2.Timeout(options.seconds, connect=min(_CONNECT_SECONDS, options.seconds))
    async with BoundedClient(limit, await in_daemon_thread(trusted)) as client:
        yield _model(options, client)


def _model(options: ModelOptions, client: httpx2.AsyncClient) -> Model:
    key = options.api_key.get_secret_value() if options.api_key else ""
    # A variable such as OPENAI_API_KEY must not decide where a key goes: key and address are the block's alone.
    if options.api == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        url = options.base_url or _ANTHROPIC_URL
        return AnthropicModel(
            options.model, provider=AnthropicProvider(api_key=key or "none", base_url=url, http_client=client)
        )
    if options.api == "ollama":
        from pydantic_ai.models.ollama import OllamaModel
        from pydantic_ai.providers.ollama import OllamaProvider

        url = options.base_url or _OLLAMA_URL
        return OllamaModel(
            options.model, provider=OllamaProvider(base_url=url, api_key=key or "none", http_client=client)
        )
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    if not options.base_url:
        own = OpenAIProvider(base_url=_OPENAI_URL, api_key=key or "none", http_client=client)
        return OpenAIChatModel(options.model, provider=own)
    other = OpenAICompatibleProvider(
        "openai-compatible", base_url=options.base_url, api_key=key or "none", http_client=client
    )
    return OpenAIChatModel(options.model, provider=other)
