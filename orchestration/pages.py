"""The pages about an incident and a run, as a message links them."""

from __future__ import annotations

from orchestration.settings import Settings

ADMIN_PATH = "/admin/orchestration"
"""Where the admin is, below the URL of the API."""


def incident_page(settings: Settings, incident_id: str) -> str:
    """The admin's page of an incident; "" if the public URL of the API is not known."""
    if settings.api_public_url is None:
        return ""
    return f"{settings.api_public_url.rstrip('/')}{ADMIN_PATH}/incidents/{incident_id}/"


def flow_run_page(settings: Settings, flow_run_id: str | None) -> str:
    """The page of a flow run in Prefect's UI; "" if there is no flow run, or the UI's URL is not known."""
    ui = settings.prefect_ui
    return f"{ui}/runs/flow-run/{flow_run_id}" if ui and flow_run_id else ""


def pages_of(settings: Settings, *, incident_id: str | None, flow_run_id: str | None) -> dict[str, str]:
    """The pages that there are, by the name of their link."""
    pages = {
        "incident": incident_page(settings, incident_id) if incident_id else "",
        "pipeline run": flow_run_page(settings, flow_run_id),
    }
    return {name: url for name, url in pages.items() if url}
