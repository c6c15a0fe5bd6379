"""All that is looked at, in the order in which it is told."""

from __future__ import annotations

import asyncio

from orchestration.settings import Settings
from service.doctor.channels import channel_findings
from service.doctor.database import database_findings
from service.doctor.finding import Finding
from service.doctor.host import host_findings
from service.doctor.prefect import prefect_findings
from service.stack import running


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything at once. Nothing is started, changed or sent; of the embedded stack, what runs counts."""
    stack = running(settings)
    own_database = settings.database_url.get_secret_value() if settings.database_url is not None else None
    api_url = settings.prefect_api_url or (stack.prefect_api_url if stack else None)
    groups = await asyncio.gather(
        host_findings(settings),
        database_findings(
            settings, own_database or (stack.database_url if stack else None), embedded=own_database is None
        ),
        prefect_findings(api_url, embedded=settings.prefect_api_url is None),
        channel_findings(settings, api_url),
    )
    return [finding for group in groups for finding in group]
