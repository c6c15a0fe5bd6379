"""Where a command that starts no stack finds Prometheus."""

from __future__ import annotations

from orchestration.embedded_stack import find_running_stack
from orchestration.prometheus import Prometheus
from orchestration.settings import Settings


class CommandPrometheus:
    """Where this command finds Prometheus: in the settings, else in a Prefect that runs. It starts none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def find(self) -> Prometheus | None:
        """See `orchestration.prometheus.PrometheusFinder`."""
        # Prefect takes seconds to import, and only a block needs it.
        stack = find_running_stack(self._settings)
        url = self._settings.prefect_api_url or (stack.prefect_api_url if stack else None)
        if self._settings.prometheus_url is None and url is None:
            return None
        from prefect.settings import temporary_settings

        from blocks.prefect_api import address_settings
        from blocks.prometheus.source import PrometheusSources

        with temporary_settings(address_settings(self._settings, url)):
            return await PrometheusSources(self._settings).find()
