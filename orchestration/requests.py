"""What a run is asked: parsed once at the door, kept with the run, and handed on as one value."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, JsonValue

from orchestration.alert import Alert
from orchestration.contracts import Contract


class RunOptions(Contract):
    """What the caller chose, kept with the run so that a resume does the same."""

    checker_names: list[str] | None = Field(default=None, description="The checkers to run; None means the settings'.")
    checker_configs: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict[str, dict[str, JsonValue]],
        description='Options by checker, such as {"disk": {"paths": ["/data"]}}.',
    )
    labels: dict[str, str] = Field(default_factory=dict[str, str], description="Labels that are kept with the run.")
    provider: str | None = Field(default=None, description="Who analyzes; None means the installation's provider.")
    notify_driver: str | None = Field(default=None, description="A channel block or a driver; None means the defaults.")
    checks_only: bool = Field(default=False, description="Check this host's own health; there is no alert.")
    test: bool = Field(default=False, description="The message says that this is a test.")
    definition: str | None = Field(default=None, description="The stored definition; None means the linear pipeline.")
    routed: bool = Field(
        default=False,
        description="The policy's route has named the definition: where it cannot be executed, the linear pipeline is.",
    )
    definition_config: dict[str, JsonValue] | None = Field(
        default=None, description="A definition that is not stored, such as one from a file. It stays with the run."
    )
    incident_id: str | None = Field(default=None, description="The incident that a run without alerts is about.")
    follows: str | None = Field(
        default=None,
        description="The run whose message a redelivery sends again, or whose message is brought up to date.",
    )
    answer: str | None = Field(
        default=None, description="The key of the model's answer, which an analysis brings into the messages."
    )
    except_channels: list[str] = Field(default_factory=list[str], description="Channels that are not told.")

    @property
    def defined(self) -> bool:
        """Whether the run executes a definition other than the linear pipeline."""
        return self.definition is not None or self.definition_config is not None

    def with_given(self, **given: Any) -> Self:
        """These options, with those of `given` that are not None in their place.

        Raises:
            pydantic.ValidationError: a value has the wrong type.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        return self.model_validate(self.model_dump(exclude_unset=True) | chosen) if chosen else self


class RunRequest(Contract):
    """One request for runs: what the sender said, and what the caller chose."""

    payload: Any = Field(default=None, description="What a monitoring system sent, or what a definition starts with.")
    source: str = Field(default="unknown", description="The sender's kind; other words mean: recognize it.")
    environment: str = Field(default="production", description="Where it happened, such as production or staging.")
    trace_id: str | None = Field(default=None, description="Shared by all runs of the request; None means a new one.")
    options: RunOptions = RunOptions()


class StoredPush(Contract):
    """What a run starts with: the alerts of one incident, and what was wrong with the push around them."""

    alerts: list[Alert] = Field(default_factory=list[Alert])
    errors: list[str] = Field(default_factory=list[str])
    omitted: int = Field(default=0, description="How many alerts of the incident the sender has left out.")
    all_resolved: bool = Field(
        default=False, description="The sender says that every alert of the incident has ended, also those left out."
    )
    data: JsonValue = Field(default=None, description="The payload itself, for a definition without an ingest node.")
    folded: list[str] = Field(default_factory=list[str], description="The runs of a storm whose alerts these are too.")
