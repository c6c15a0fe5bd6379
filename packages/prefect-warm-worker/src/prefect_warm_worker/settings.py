"""What is set where the worker is started. Nothing here can be set from Prefect's API."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WarmWorkerSettings(BaseSettings):
    """The settings of one worker, from environment variables that begin with `WARM_WORKER_`."""

    model_config = SettingsConfigDict(env_prefix="WARM_WORKER_", extra="ignore", frozen=True)

    flows: str = Field(default="", description="The entry points that may be run, separated by commas or lines.")
    limit: int = Field(
        default=20, ge=1, description="How many runs are executed at once, unless `--limit` says otherwise."
    )
    grace_seconds: float = Field(
        default=25.0, ge=0, description="How long runs may go on after SIGTERM or Ctrl-C. Kubernetes kills after 30 s."
    )
    blocked_seconds: float = Field(
        default=1.0, gt=0, description="How long code may block the event loop before a warning names it."
    )
    watch_seconds: float = Field(
        default=5.0,
        gt=0,
        description="How often the worker asks which runs were cancelled, beside the events that say so at once.",
    )

    def entrypoints(self) -> list[str]:
        """The entry points, one each, without comments."""
        lines = (line.partition("#")[0] for line in self.flows.splitlines())
        return [name for line in lines for part in line.split(",") if (name := part.strip())]
