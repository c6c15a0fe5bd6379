"""What is around the body of a source: a CloudEvent, or a mail with an attachment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, web_address
from tasks.ingest.sources.fields import latest
from tasks.ingest.sources.source import Push


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """An envelope that was opened."""

    data: JsonValue
    """What is in it."""
    time: datetime | None = None
    """When that happened."""
    page: str = ""
    """The address of a page about it; anything else than a web address is none."""

    def added_to(self, push: Push) -> Push:
        """The push with what the envelope says and its data does not."""
        return replace(push, alerts=tuple(map(self._added_to_alert, push.alerts)))

    def _added_to_alert(self, alert: Alert) -> Alert:
        found: dict[str, object] = {}
        if self.time is not None:
            ends_now = alert.status is AlertStatus.RESOLVED and alert.ended_at is None
            begins_now = alert.firing and alert.started_at is None
            ended_at = latest(self.time, alert.started_at)
            found = {"ended_at": ended_at} if ends_now else {"started_at": self.time} if begins_now else {}
            found |= {"occurred_at": self.time} if alert.occurred_at is None else {}
        if "source" not in alert.links and (page := web_address(self.page)):
            found["links"] = {**alert.links, "source": page}
        return changed(alert, found)


def changed(alert: Alert, found: dict[str, object]) -> Alert:
    """The alert with these fields, which are checked as those of any other."""
    return Alert.model_validate({**dict(alert), **found}) if found else alert
