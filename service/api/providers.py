"""Which analysis providers exist, as far as the HTTP door knows: workers write down the blocks that they know."""

from __future__ import annotations

from orchestration.analysis import LOCAL, MODEL, block_of
from orchestration.errors import BadInput
from orchestration.store.encrypted_cache import KnownModel, read_models
from service.api.state import ApiState
from tasks.analyze.stage import ensure_provider

SETTINGS = "settings"
DEFAULT = "default"


async def check_provider(api: ApiState, provider: str | None) -> None:
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
