"""A model that analyzes, as a Prefect block, and how the model of a run is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from blocks.prefect_api import BlockSource, SavedBlock, broken_block
from orchestration.analysis import ModelOptions
from orchestration.errors import BadInput, Unavailable
from orchestration.setting_rules import model_problems
from orchestration.settings import Settings, secret_text
from orchestration.signals import logger
from orchestration.store.encrypted_cache import KnownModel

DEFAULT = "default"
"""The name of the block that is the installation's model."""

SETTINGS = "settings"
"""The name on record of the model that the settings name."""


class AnalysisModel(Block):
    """A model at the API of a vendor: where it is, and what it may cost and see."""

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Analysis Model"
    _block_type_slug = "analysis-model"
    _description = "A language model that analyzes incidents. The one named default analyzes those that name none."

    api: Literal["openai", "anthropic", "ollama"] = Field(
        default="openai", description="The kind of API: openai (and whatever is compatible with it), anthropic, ollama."
    )
    model: str = Field(description="The name of the model, as the API knows it.", min_length=1, max_length=200)
    base_url: str = Field(default="", description="The base URL of the API. Empty means the vendor's own.")
    api_key: SecretStr | None = Field(default=None, description="The key of the API, if it needs one.")
    enabled: bool = Field(default=True, description="Whether it is asked.")
    seconds: float = Field(default=60.0, gt=0, le=600, description="How long it may take to answer, in seconds.")
    max_requests: int = Field(default=6, ge=1, le=50, description="The most requests for one answer.")
    max_output_tokens: int = Field(
        default=2000, ge=100, le=100_000, description="The most tokens of one request's answer."
    )
    max_tool_calls: int = Field(default=8, ge=0, le=100, description="The most looks by itself for one answer.")
    tokens_per_hour: int | None = Field(
        default=500_000, ge=0, description="The most tokens in an hour. Then the local analysis stands in."
    )
    cost_per_hour: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="The most cost in an hour, in the currency of the prices."
    )
    price_input: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="The price of a million tokens of input."
    )
    price_output: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="The price of a million tokens of output."
    )
    reads_runbook: bool = Field(default=False, description="Whether it gets the text of the runbook.")
    uses_tools: bool = Field(
        default=False, description="Whether it may look by itself: run a checker, query Prometheus, read a stored run."
    )

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for field, problem in model_problems(
            model=self.model, base_url=self.base_url, api_key=secret_text(self.api_key)
        ):
            raise ValueError(f"{field}: {problem}")
        if self.cost_per_hour is not None and not self.price_input and not self.price_output:
            raise ValueError("cost_per_hour: it has no effect without price_input or price_output")
        return self

    def options(self, name: str) -> ModelOptions:
        """What the analysis needs of the block with this name."""
        return ModelOptions(name=name, **self.model_dump(include=set(ModelOptions.model_fields) - {"name"}))


def known_models(saved: Sequence[SavedBlock]) -> list[KnownModel]:
    """The models that blocks name, for those who only list them."""
    blocks = [one for one in saved if one.slug == AnalysisModel.get_block_type_slug()]
    return [
        KnownModel(
            name=one.name,
            api=str(one.data.get("api", "openai")),
            model=str(one.data.get("model", "")),
            enabled=one.data.get("enabled") is not False,
        )
        for one in blocks
    ]


class ModelResolver:
    """Finds models, as `orchestration.analysis.ModelSource` requires.

    `source` lists the saved blocks: a request to Prefect each time, or a `ChannelCache`.
    """

    def __init__(self, settings: Settings, *, source: BlockSource) -> None:
        self._settings = settings
        self._source = source

    async def find(self, block: str | None) -> ModelOptions | None:
        """The model of the block with this name; without a name that of the block `default`, else of the settings.

        Raises:
            BadInput: there is no such block, it is broken, or it is switched off.
            Unavailable: Prefect does not answer, and a block is named.
        """
        try:
            saved = await self._source()
        except Unavailable as error:
            if block is not None:
                raise
            logger.warning("Whether a block names the model that analyzes is not known: %s", error)
            saved = []
        blocks = {one.name: one for one in saved if one.slug == AnalysisModel.get_block_type_slug()}
        if block is None:
            return _options(blocks[DEFAULT]) if DEFAULT in blocks else from_settings(self._settings)
        if block not in blocks:
            known = ", ".join(sorted(blocks)) or "none"
            raise BadInput(f"There is no analysis-model block {block!r} in Prefect. There are: {known}")
        return _options(blocks[block])


def _options(saved: SavedBlock) -> ModelOptions:
    try:
        model = AnalysisModel.model_validate(saved.data)
    except ValidationError as error:
        raise BadInput(broken_block("analysis-model block", saved, error)) from None
    if not model.enabled:
        raise BadInput(
            f"The analysis-model block {saved.name!r} is switched off: enable it in Prefect, or name another"
        )
    return model.options(saved.name)


def from_settings(settings: Settings) -> ModelOptions | None:
    """The model that the environment names; None if it names none."""
    if settings.analysis_model is None:
        return None
    return AnalysisModel(
        api=settings.analysis_model_api,
        model=settings.analysis_model,
        base_url=settings.analysis_model_url or "",
        api_key=settings.analysis_model_key,
        tokens_per_hour=settings.analysis_model_tokens_per_hour,
    ).options(SETTINGS)
