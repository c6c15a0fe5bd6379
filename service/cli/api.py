"""`alert-pipeline api`: the HTTP API without a worker."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.settings import load_settings
from service.cli.terminal import output, progress
from service.stack import attach


def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 means any free port.")] = 8000,
) -> int:
    """Accept alerts over HTTP until Ctrl-C. Accepted alerts are stored, and a worker executes them.

    Uses the PostgreSQL of DATABASE_URL, or the embedded one.
    """
    # Importing FastAPI takes a moment that other commands need not spend.
    from service.admin import mount
    from service.api.server import serve

    settings = load_settings()
    with progress() as show, attach(settings, need_prefect=False, progress=show) as addresses:
        serve(
            settings,
            addresses.database_url,
            host=host,
            port=port,
            extensions=[mount.install],
            ready=lambda address: output.print(f"API       {address}"),
        )
    return 0
