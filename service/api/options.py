"""What a caller may ask for: names of things that the operator has set up, and limits; never an address or a text.

A caller that could name hosts would have this service look around its network for them, and one that could name
URLs or templates would have it send what they like to where they like.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from orchestration.errors import BadInput
from orchestration.requests import RunOptions
from orchestration.settings import Settings
from service.api.shapes import Wishes
from tasks.check.stage import CheckConfig

PROVIDERS = ("local",)


def options_of(
    asked: Wishes, settings: Settings, *, definition: str | None = None, incident_id: str | None = None
) -> RunOptions:
    """The options of the runs, of this definition if one is named.

    Raises:
        BadInput: a name that nothing here has, or an option that callers may not give.
    """
    if asked.provider is not None and asked.provider not in PROVIDERS:
        raise BadInput(f"provider: there is no {asked.provider!r}; there are: {', '.join(PROVIDERS)}")
    configs = asked.checker_configs or {}
    for checker, options in configs.items():
        _only_limits(checker, options)
    if asked.checker_names is not None or configs:
        CheckConfig.from_settings(settings, names=asked.checker_names, configs=configs)
    return RunOptions(
        checker_names=asked.checker_names,
        checker_configs=configs,
        labels=asked.labels or {},
        notify_driver=asked.notify_channel or asked.notify_driver,
        definition=definition,
        incident_id=incident_id,
    )


def _only_limits(checker: str, options: Mapping[str, JsonValue]) -> None:
    for name, value in options.items():
        if not isinstance(value, bool | int | float):
            raise BadInput(
                f"checker_configs: {checker}.{name} cannot be set over HTTP, where only numbers and booleans can: "
                "which hosts, paths and processes are looked at is the operator's choice"
            )
