"""What this installation has to say of itself: alerts of its own, which go the way of all others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from orchestration.alert import OWN_SOURCE, AlertStatus, Severity
from orchestration.engine.run import Services
from orchestration.redaction import one_line
from orchestration.requests import RunOptions, RunRequest
from orchestration.store.database import AsyncConnection
from orchestration.store.pushes import write_push
from orchestration.store.records import RunRecord
from tasks.ingest.inbox import accept


def own_alert(
    about: str,
    name: str,
    description: str,
    *,
    over: bool = False,
    severity: Severity = Severity.CRITICAL,
    since: datetime | None = None,
    labels: dict[str, str] | None = None,
    except_channels: Sequence[str] = (),
) -> RunRequest:
    """An alert of this installation. `about` names the incident, such as `channel/slack`; `over` says that it ends."""
    payload = {
        "name": name,
        "fingerprint": about,
        "incident_key": f"{OWN_SOURCE}/{about}",
        "severity": severity.value,
        "status": (AlertStatus.RESOLVED if over else AlertStatus.FIRING).value,
        "description": description,
        "labels": labels or {},
        "started_at": since.isoformat() if since else None,
    }
    return RunRequest(
        payload={name: value for name, value in payload.items() if value is not None},
        source=OWN_SOURCE,
        options=RunOptions(except_channels=list(except_channels)),
    )


def own_incident_key(about: str) -> str:
    """The key under which the incident of such an alert is stored."""
    return f"{OWN_SOURCE}:{OWN_SOURCE}/{about}"


def given_up_run(record: RunRecord, why: str) -> RunRequest:
    """The alert about a run that ended before its message: it kills its processes, or its alerts cannot be recorded."""
    title = one_line(record.title or record.run_id, 120)
    return own_alert(
        f"run/{record.run_id}",
        f"Run given up: {title}",
        f"{why}. Its alert may not have reached anybody: alert-pipeline why {record.run_id[:8]}",
        severity=record.severity or Severity.CRITICAL,
        labels={"run": record.run_id[:8]},
    )


async def report(services: Services, alert: RunRequest, tx: AsyncConnection | None = None) -> None:
    """Accept an alert of this installation, within a transaction if one is given.

    Raises:
        Unavailable: the database does not answer.
    """
    if tx is None:
        await accept(services, alert)
    else:
        await accept(services, alert, write=partial(write_push, tx))
