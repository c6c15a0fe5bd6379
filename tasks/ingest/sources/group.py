"""The body that Alertmanager and Grafana share: a group of alerts with one group key."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.places import host_of
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
    on_place,
    one_line_text,
    severity_of,
    text,
)
from tasks.ingest.sources.source import JsonObject, Push
from tasks.ingest.sources.spelling import UNRENDERED
from tasks.ingest.sources.status import status_of

_DESCRIPTION = ("description", "summary", "message")
_NAMES_IN_A_TITLE = 3
_MOST_OMITTED = 1_000_000

_RULE_STATES = {"DatasourceError": "Error", "DatasourceNoData": "NoData"}
"""The names under which Grafana sends the alert of a rule that it cannot evaluate, and the reason in its words. The
rule's own name is the label `rulename`. An Alertmanager passes such alerts on."""


@dataclass(frozen=True)
class Member:
    """One alert of the group, before it becomes an `Alert`."""

    item: JsonObject
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    state_reason: str
    severity: Severity
    host: str


def _no_group(_item: JsonObject, _labels: dict[str, str]) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The differences between the two vendors."""

    source: str
    vendor: str
    links: Callable[[JsonObject, Member], JsonObject]
    annotations: Callable[[JsonObject], JsonObject] = lambda _: {}
    """Fields beside the annotations that become annotations."""
    group: Callable[[JsonObject, dict[str, str]], str] = _no_group
    """The key of an alert whose group has none; "" means name and host."""
    tenant: Callable[[JsonObject, JsonObject], str] = lambda _body, _item: ""
    """A prefix that makes the keys of a body and of its alert unique, such as `org-3:`; "" if they need none."""


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
    omitted = _count(body.get("truncatedAlerts"))
    if omitted:
        errors.append(f"{dialect.vendor} left out {omitted} alert{'s' if omitted > 1 else ''} (max_alerts)")
    title = _title(members, omitted)
    return Push(
        source=dialect.source,
        alerts=tuple(_alert(member, body, title, dialect) for member in members),
        errors=tuple(errors),
        omitted=omitted,
        all_resolved=status_of(body.get("status")) is AlertStatus.RESOLVED,
    )


def _count(value: JsonValue) -> int:
    """A number of alerts, also as text; 0 for anything else."""
    written = text(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    return min(int(written), _MOST_OMITTED) if re.fullmatch("[0-9]{1,40}", written) else 0


def _member(item: JsonObject, common: dict[str, str], dialect: Dialect) -> Member | None:
    labels = labels_of(item.get("labels"))
    annotations = annotations_of(dialect.annotations(item)) | annotations_of(item.get("annotations"))
    named_by = Fields(labels, common, annotations).pick("alertname", "title", "summary")
    if not (named_by or labels or annotations or one_line_text(item.get("fingerprint"))):
        return None
    name = one_line_text(named_by) or "unnamed alert"
    rule, reason = Fields(labels, common).line("rulename"), _RULE_STATES.get(name, "")
    return Member(
        item,
        rule if reason and rule else name,
        labels,
        annotations,
        one_line_text(annotations.get("grafana_state_reason")) or reason,
        severity_of(*(labels.get(name) for name in SEVERITY)),
        host_of(labels),
    )


def _alert(member: Member, body: JsonObject, title: str, dialect: Dialect) -> Alert:
    item, labels, annotations = member.item, member.labels, Fields(member.annotations)
    links = {
        "runbook": annotations.pick(*RUNBOOK),
        "dashboard": annotations.pick(*DASHBOARD),
        "source": item.get("generatorURL"),
    }
    status = status_of(item.get("status"), body.get("status"))
    # For a firing alert, endsAt is only the time at which its sender would stop waiting for news of it.
    ended_at = moment(item.get("endsAt")) if status is AlertStatus.RESOLVED else None
    started_at = moment(item.get("startsAt"))
    fingerprint = one_line_text(item.get("fingerprint"), None)
    group = one_line_text(body.get("groupKey"), None) or dialect.group(item, labels)
    tenant = dialect.tenant(body, item)
    return alert_of(
        dialect.source,
        item,
        fingerprint=fingerprint and f"{tenant}{fingerprint}",
        name=member.name,
        severity=member.severity,
        status=status,
        description=_description(member),
        labels=labels,
        host=member.host,
        annotations=member.annotations,
        group=group and f"{tenant}{group}",
        title=title,
        links={**links, **links_of(dialect.links(body, member))},
        started_at=started_at,
        ended_at=ended_at,
        episode_at=started_at,
        occurred_at=ended_at,
        state_reason=member.state_reason,
    )


def _description(member: Member) -> str:
    """What is wrong: the error of a rule that cannot be evaluated, then the annotation that describes the alert.

    A template that could not be rendered is used only if there is nothing else.
    """
    written = [prose for name in _DESCRIPTION if (prose := member.annotations.get(name))]
    rendered = next((prose for prose in written if not UNRENDERED.search(prose)), "")
    error = (member.annotations.get("Error") or member.annotations.get("error")) if member.state_reason else None
    if error:
        return f"{error}\n{rendered}".strip()
    if rendered:
        return rendered
    if member.state_reason == "NoData":
        query = member.labels.get("ref_id")
        return f"The query{f' {query}' if query else ''} of the rule returned no data."
    return member.annotations.get("values") or next(iter(written), "")


def _title(members: list[Member], omitted: int) -> str:
    """Such as `HighCPU on web-01`, `HighCPU (3 alerts)` or, for several rules, `3 alerts: HighCPU, DiskFull`."""
    count = len(members) + omitted
    worst_first = sorted(members, key=lambda member: -member.severity.rank)
    names = list(dict.fromkeys(member.name for member in worst_first))
    hosts = {member.host for member in members}
    host = hosts.pop() if len(hosts) == 1 and not omitted else ""
    if len(names) == 1:
        return one_line_text(on_place(names[0], host) if host or count == 1 else f"{names[0]} ({count} alerts)")
    where = f" on {host}" if host else ""
    more = ", …" if len(names) > _NAMES_IN_A_TITLE else ""
    return one_line_text(f"{count} alerts{where}: {', '.join(islice(names, _NAMES_IN_A_TITLE))}{more}")
