"""The providers, checkers and channels that a request may name. Workers write down the blocks that they know."""

from __future__ import annotations

import orjson

from orchestration.analysis import LOCAL, MODEL, block_of
from orchestration.errors import BadInput
from orchestration.message import is_channel
from orchestration.requests import RunOptions
from orchestration.store.encrypted_cache import CHANNEL_NAMES, EncryptedCache, KnownModel, read_models
from service.api.state import ApiState
from tasks.analyze.stage import ensure_provider
from tasks.check.stage import CheckConfig

SETTINGS = "settings"
DEFAULT = "default"


async def check_names(api: ApiState, options: RunOptions, channel_field: str) -> None:
    """Refuse providers, checkers and channels that do not exist. `channel_field` is where the body names the channel.

    Channels and models are blocks in Prefect, which this process does not ask: workers write the names that they know.
    While no worker has, every name is accepted.

    Raises:
        BadInput: there is no such provider, checker or channel.
    """
    await _check_provider(api, options.provider)
    if options.checker_names is not None or options.checker_configs:
        CheckConfig.from_settings(api.settings, names=options.checker_names, configs=options.checker_configs)
    channel = options.notify_driver
    if channel is None or (content := await EncryptedCache(api.database).read(CHANNEL_NAMES)) is None:
        return
    known: list[str] = orjson.loads(content)
    if not is_channel(channel, known):
        raise BadInput(
            f"{channel_field}: there is no channel or driver {channel!r}; there are: {', '.join(known)}. "
            "A new block is known after half a minute"
        )


async def _check_provider(api: ApiState, provider: str | None) -> None:
    """Refuse a provider that does not exist, and a model that nobody has set up, as far as the blocks are known here.

    Raises:
        BadInput: there is no such model, or it is switched off.
    """
    ensure_provider(provider)
    if provider is None or provider == LOCAL:
        return
    async with api.database.transaction() as tx:
        models = await read_models(tx)
    block = block_of(provider)
    if models is None or (block is None and usual_provider(api, models) == SETTINGS):
        return
    known = {one.name: one for one in models}
    wanted = known.get(block or DEFAULT)
    if wanted is None:
        there = ", ".join(f"{MODEL}/{name}" for name in sorted(known)) or "none"
        raise BadInput(
            f"provider: no model is set up that {provider!r} could name; there are: {there}. Save a block of the type "
            "Analysis Model in Prefect, or set ANALYSIS_MODEL, here and where the workers run"
        )
    if not wanted.enabled:
        raise BadInput(f"provider: the analysis-model block {wanted.name!r} is switched off")


def usual_provider(api: ApiState, models: list[KnownModel]) -> str:
    """Who analyzes what names no provider: default (a block), settings, or local."""
    if any(one.name == DEFAULT for one in models):
        return DEFAULT
    return LOCAL if api.settings.analysis_model is None else SETTINGS
