"""The body that Alertmanager and Grafana share: a group of alerts with one group key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, host_of
from tasks.ingest.sources.fields import (
    annotations_of,
    fingerprint_of,
    incident_key,
    labels_of,
    line,
    links_of,
    moment,
    objects_in,
    pick,
    prose,
    severity_of,
    status_of,
)
from tasks.ingest.sources.source import JsonObject, Push

_SEVERITY = ("severity", "priority", "level")
_DESCRIPTION = ("description", "summary", "message", "values")
_RUNBOOK = ("runbook_url", "runbookURL", "runbook")
_DASHBOARD = ("dashboard_url", "dashboardURL", "dashboard")
_NAMES_IN_A_TITLE = 3


@dataclass(frozen=True)
class Member:
    """One alert of the group, before it becomes an `Alert`."""

    item: JsonObject
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The differences between the two vendors: links, and fields that become annotations."""

    source: str
    vendor: str
    links: Callable[[JsonObject, Member], dict[str, JsonValue]]
    annotations: Callable[[JsonObject], JsonObject]


def parse_group(body: JsonObject, dialect: Dialect) -> Push:
    """The alerts of the group. Their incident key is the group key of the sender."""
    items, errors = objects_in(body.get("alerts"))
    common = labels_of(body.get("commonLabels"))
    members: list[Member] = []
    for index, item in items:
        member = _member(item, common, dialect)
        if member is None:
            errors.append(f"alerts[{index}] has no labels, no fingerprint and no text: it cannot be identified")
        else:
            members.append(member)
    left_out = body.get("truncatedAlerts")
    omitted = left_out if isinstance(left_out, int) and left_out > 0 else 0
    if omitted:
        errors.append(f"{dialect.vendor} left out {omitted} alert{'s' if omitted > 1 else ''} (max_alerts)")
    title = _title(members, omitted)
    alerts = tuple(_alert(member, body, title, dialect) for member in members)
    return Push(source=dialect.source, alerts=alerts, errors=tuple(errors))


def _member(item: JsonObject, common: dict[str, str], dialect: Dialect) -> Member | None:
    labels = labels_of(item.get("labels"))
    annotations = annotations_of(dialect.annotations(item)) | annotations_of(item.get("annotations"))
    named_by = pick((labels, common, annotations), ("alertname", "title", "summary"))
    if not (named_by or labels or annotations or line(item.get("fingerprint"))):
        return None
    return Member(item, line(named_by) or "unnamed alert", labels, annotations)


def _alert(member: Member, body: JsonObject, title: str, dialect: Dialect) -> Alert:
    item, labels = member.item, member.labels
    status = status_of(item.get("status"), body.get("status"))
    group = line(body.get("groupKey"), None)
    return Alert(
        source=dialect.source,
        fingerprint=line(item.get("fingerprint"), None) or fingerprint_of(member.name, labels),
        name=member.name,
        severity=severity_of(*(labels.get(name) for name in _SEVERITY)),
        status=status,
        description=prose(pick((member.annotations,), _DESCRIPTION)),
        labels=labels,
        annotations=member.annotations,
        incident_key=f"{dialect.source}:{group}" if group else incident_key(dialect.source, member.name, labels),
        title=title,
        links=_links(member) | links_of(dialect.links(body, member)),
        started_at=moment(item.get("startsAt")),
        # For a firing alert, endsAt is only the time at which its sender would stop waiting for news of it.
        ended_at=moment(item.get("endsAt")) if status is AlertStatus.RESOLVED else None,
        raw_payload=item,
    )


def _links(member: Member) -> dict[str, str]:
    return links_of(
        {
            "runbook": pick((member.annotations,), _RUNBOOK),
            "dashboard": pick((member.annotations,), _DASHBOARD),
            "source": member.item.get("generatorURL"),
        }
    )


def _title(members: list[Member], omitted: int) -> str:
    """Such as `HighCPU on web-01`, `HighCPU (3 alerts)` or, for several rules, `3 alerts: HighCPU, DiskFull`."""
    count = len(members) + omitted
    names = list(dict.fromkeys(member.name for member in members))
    hosts = {host_of(member.labels) for member in members}
    where = f" on {hosts.pop()}" if len(hosts) == 1 and "" not in hosts and not omitted else ""
    if len(names) == 1:
        return line(f"{names[0]}{where}" if where or count == 1 else f"{names[0]} ({count} alerts)")
    more = ", …" if len(names) > _NAMES_IN_A_TITLE else ""
    return line(f"{count} alerts{where}: {', '.join(islice(names, _NAMES_IN_A_TITLE))}{more}")
