"""The body that Alertmanager and Grafana share: a group of alerts with one group key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from orchestration.alert import Alert, host_of
from tasks.ingest.sources.fields import (
    DASHBOARD,
    RUNBOOK,
    SEVERITY,
    Fields,
    alert_of,
    annotations_of,
    labels_of,
    links_of,
    moment,
    objects_in,
    one_line_text,
    severity_of,
    status_of,
)
from tasks.ingest.sources.source import JsonObject, Push

_DESCRIPTION = ("description", "summary", "message", "values")
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
    links: Callable[[JsonObject, Member], JsonObject]
    annotations: Callable[[JsonObject], JsonObject] = lambda _: {}


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
    named_by = Fields(labels, common, annotations).pick("alertname", "title", "summary")
    if not (named_by or labels or annotations or one_line_text(item.get("fingerprint"))):
        return None
    return Member(item, one_line_text(named_by) or "unnamed alert", labels, annotations)


def _alert(member: Member, body: JsonObject, title: str, dialect: Dialect) -> Alert:
    item, labels, annotations = member.item, member.labels, Fields(member.annotations)
    links = {
        "runbook": annotations.pick(*RUNBOOK),
        "dashboard": annotations.pick(*DASHBOARD),
        "source": item.get("generatorURL"),
    }
    return alert_of(
        dialect.source,
        item,
        fingerprint=one_line_text(item.get("fingerprint"), None),
        name=member.name,
        severity=severity_of(*(labels.get(name) for name in SEVERITY)),
        status=status_of(item.get("status"), body.get("status")),
        description=annotations.pick(*_DESCRIPTION),
        labels=labels,
        annotations=member.annotations,
        group=one_line_text(body.get("groupKey"), None),
        title=title,
        links={**links, **links_of(dialect.links(body, member))},
        started_at=moment(item.get("startsAt")),
        # For a firing alert, endsAt is only the time at which its sender would stop waiting for news of it.
        ended_at=moment(item.get("endsAt")),
    )


def _title(members: list[Member], omitted: int) -> str:
    """Such as `HighCPU on web-01`, `HighCPU (3 alerts)` or, for several rules, `3 alerts: HighCPU, DiskFull`."""
    count = len(members) + omitted
    names = list(dict.fromkeys(member.name for member in members))
    hosts = {host_of(member.labels) for member in members}
    where = f" on {hosts.pop()}" if len(hosts) == 1 and "" not in hosts and not omitted else ""
    if len(names) == 1:
        return one_line_text(f"{names[0]}{where}" if where or count == 1 else f"{names[0]} ({count} alerts)")
    more = ", …" if len(names) > _NAMES_IN_A_TITLE else ""
    return one_line_text(f"{count} alerts{where}: {', '.join(islice(names, _NAMES_IN_A_TITLE))}{more}")
