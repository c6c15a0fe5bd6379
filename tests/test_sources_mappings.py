"""The mappings that ship: what each sender writes becomes its alerts, and is taken for nobody else's."""

from __future__ import annotations

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.errors import BadInput
from tasks.ingest.sources import SOURCES, Push, Sources, parse_push, recognise
from tasks.ingest.sources.shipped import SHIPPED
from tests.payloads import IGNORED, NAMES, SAMPLES, body
from tests.test_sources_properties import assert_sentence, assert_storable, objects, objects_in, values

FIRING = [name for name in SAMPLES if name.split("/")[1].startswith("firing")]
RESOLVED = [name for name in SAMPLES if name.split("/")[1].startswith("resolved")]
SAID_NOTHING = [name for name in SAMPLES if name.split("/")[1].startswith("ignored")]
ODD = [name for name in SAMPLES if name.split("/")[1].startswith("odd")]

NEVER_OVER = {"elastalert", "falco", "graylog", "splunk"}
"""Senders that say that something has happened, and never that it is over."""

EXPECTED = {
    "argo-cd/firing": ("Application shop", Severity.CRITICAL, "argocd/shop"),
    "argo-cd/firing_sync_failed": ("Application shop", Severity.CRITICAL, "argocd/shop"),
    "azure-common-schema/firing": (
        "WCUS-R2-Gen2",
        Severity.CRITICAL,
        "/subscriptions/6f8a/providers/Microsoft.AlertsManagement/alerts/b9569717-bc32",
    ),
    "better-stack/firing": ("Ticket shop", Severity.WARNING, "25"),
    "better-stack/firing_event": ("Ticket shop", Severity.WARNING, "26"),
    "checkmk/firing": ("Filesystem /", Severity.CRITICAL, None),
    "checkmk/firing_host": ("Host check", Severity.CRITICAL, None),
    "cloudwatch-sns/firing": (
        "orders-errors",
        Severity.WARNING,
        "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:orders-errors",
    ),
    "cloudwatch-sns/firing_raw": (
        "orders-errors",
        Severity.WARNING,
        "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:orders-errors",
    ),
    "cloudwatch-sns/firing_eventbridge": (
        "ServerCpuTooHigh",
        Severity.WARNING,
        "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:ServerCpuTooHigh",
    ),
    "dynatrace/firing": ("Response time degradation", Severity.WARNING, "-7035735498187542_V2"),
    "elastalert/firing": ("Too many failed orders", Severity.CRITICAL, None),
    "falco/firing": ("Terminal shell in container", Severity.INFO, None),
    "github-workflow/firing": ("Build", Severity.CRITICAL, "octo-org/shop:159038:main"),
    "gitlab-pipeline/firing": ("Pipeline of shop/web", Severity.CRITICAL, "1:main"),
    "google-cloud-monitoring/firing": ("High CPU", Severity.CRITICAL, "0.opqiw61fsv7p"),
    "graylog/firing": ("Too many errors of the shop", Severity.CRITICAL, "5df25294e5c0ac4a1d3b3e4a:shop"),
    "healthchecks/firing": ("Nightly backup", Severity.WARNING, "f618072a-7bde-4eee-af63-71a77c5723bc"),
    "healthchecks/firing_placeholders": ("Nightly backup", Severity.WARNING, "5f0b"),
    "influxdb/firing": ("Disk usage", Severity.CRITICAL, "0766ab1234567890:web-1"),
    "jenkins/firing": ("Build of shop", Severity.CRITICAL, "job/shop/"),
    "kapacitor/firing": ("cpu_alert:host=web-1", Severity.CRITICAL, "cpu_alert:host=web-1"),
    "librenms/firing": ("Device down", Severity.CRITICAL, "12:Device down"),
    "nagios/firing": ("HTTP", Severity.CRITICAL, None),
    "nagios/firing_host": ("Host check", Severity.CRITICAL, None),
    "nagios/firing_icinga": ("disk /", Severity.WARNING, None),
    "netdata/firing": ("ram_usage", Severity.CRITICAL, None),
    "netdata/firing_alarm": ("ram_usage", Severity.CRITICAL, None),
    "netdata/firing_reachability": ("Node is unreachable", Severity.CRITICAL, None),
    "prefect-cloud/firing": ("orders-nightly", Severity.CRITICAL, "prefect.deployment.37ca4a08"),
    "prefect-cloud/firing_own_state_name": ("orders-nightly", Severity.CRITICAL, "prefect.deployment.37ca4a08"),
    "prefect-cloud/firing_late": ("orders-nightly", Severity.WARNING, "prefect.deployment.37ca4a08"),
    "prefect-cloud/firing_wrapped": ("orders-nightly", Severity.CRITICAL, "prefect.deployment.37ca4a08"),
    "prefect-cloud/firing_pool": ("default", Severity.CRITICAL, "prefect.work-pool.4dfa1a53"),
    "prefect/firing": ("Flow orders/nightly", Severity.CRITICAL, "prefect.deployment.37ca4a08"),
    "prefect/firing_own_state_name": (
        "Flow orders",
        Severity.CRITICAL,
        "prefect.flow.cb6126db-d528-402f-b439-96637187a8ca",
    ),
    "prefect/firing_late": ("Flow orders/nightly", Severity.WARNING, "prefect.deployment.37ca4a08"),
    "prefect/firing_long": ("Flow orders/nightly", Severity.CRITICAL, "prefect.deployment.37ca4a08"),
    "prefect/firing_pool": ("Work pool default", Severity.CRITICAL, "prefect.work-pool.4dfa1a53"),
    "prefect/firing_served": ("Deployment orders/nightly", Severity.CRITICAL, "prefect.deployment.37ca4a08/process"),
    "proxmox/firing": ("Proxmox vzdump", Severity.CRITICAL, "vzdump:pve-1:backup-7"),
    "proxmox/firing_fencing": ("Proxmox fencing", Severity.CRITICAL, "fencing:pve-1:"),
    "proxmox/firing_replication": ("Proxmox replication", Severity.CRITICAL, "replication:pve-1:101-0"),
    "sentry/firing": ("Error rate of the shop", Severity.CRITICAL, "7"),
    "sentry/firing_issue": ("ReferenceError: heck is not defined", Severity.CRITICAL, "1170820242"),
    "splunk/firing": ("Failed logins", Severity.WARNING, None),
    "statuscake/firing": ("Ticket shop", Severity.WARNING, "Ticket shop https://shop.example.com"),
    "uptime-kuma/firing": ("Ticket shop", Severity.WARNING, "12"),
    "uptime-robot/firing": ("Ticket shop", Severity.WARNING, "778"),
}
"""Name, severity and fingerprint of what fires. None means the hash of name and labels."""


def test_each_folder_of_samples_names_what_was_read_for_it() -> None:
    table = (Path(__file__).parent / "sources" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([a-z][a-z0-9-]+) \|", table, re.MULTILINE) == sorted(SHIPPED)


def only(push: Push) -> Alert:
    assert push.errors == ()
    (alert,) = push.alerts
    return alert


def test_each_mapping_has_a_page_a_sample_and_bodies_of_its_sender() -> None:
    assert len(SHIPPED) >= 20
    for name, mapping in SHIPPED.items():
        assert mapping.name == name
        assert mapping.docs
        assert mapping.title
        kinds = {sample.split("/")[1].split("_")[0] for sample in SAMPLES if sample.startswith(f"{name}/")}
        assert {"firing", "odd"} <= kinds
        assert ("resolved" in kinds) is (name not in NEVER_OVER)
    assert {sample.split("/")[0] for sample in SAMPLES} == set(SHIPPED)
    assert min(Counter(sample.split("/")[0] for sample in SAMPLES).values()) >= 3
    assert set(EXPECTED) == set(FIRING)


@pytest.mark.parametrize("name", FIRING)
def test_what_fires_is_a_page(name: str) -> None:
    alert = only(parse_push(body(name)))
    said, severity, fingerprint = EXPECTED[name]
    assert (alert.source, alert.name, alert.severity, alert.status) == (
        name.split("/")[0],
        said,
        severity,
        AlertStatus.FIRING,
    )
    assert alert.fingerprint == fingerprint or (fingerprint is None and len(alert.fingerprint) == 64)
    assert alert.raw_payload == body(name)


@pytest.mark.parametrize("name", RESOLVED)
def test_its_end_ends_it(name: str) -> None:
    source, kind = name.split("/")
    began = f"{source}/{kind.replace('resolved', 'firing')}"
    first = only(parse_push(body(began if began in SAMPLES else f"{source}/firing")))
    last = only(parse_push(body(name)))
    assert last.status is AlertStatus.RESOLVED
    assert last.source == source
    if began in SAMPLES:
        assert (last.fingerprint, last.incident_key) == (first.fingerprint, first.incident_key)


@pytest.mark.parametrize("name", SAID_NOTHING)
def test_what_says_nothing_of_an_alert_is_ignored_by_name(name: str) -> None:
    push = parse_push(body(name))
    assert (push.source, push.alerts) == (name.split("/")[0], ())
    assert push.ignored


@pytest.mark.parametrize("name", ODD)
def test_an_odd_body_is_a_page_too(name: str) -> None:
    push = parse_push(body(name))
    assert push.source == name.split("/")[0]
    alert = only(push)
    assert alert.firing
    assert_storable(alert)
    assert "None" not in alert.title


def owner(name: str) -> str:
    """Whose body this is."""
    return name.split("/")[0] if name in SAMPLES else name.removeprefix("ignored/").split("_")[0]


@pytest.mark.parametrize("name", [*NAMES, *IGNORED, *SAMPLES])
def test_each_body_is_read_by_its_own_source_and_by_no_other(name: str) -> None:
    whole = body(name)
    bids = {source.name: source.bid(whole) for source in SOURCES.values()}
    named = {source for source, bid in bids.items() if bid > 1}
    assert named <= {owner(name)}
    assert recognise(whole).name == owner(name)
    assert recognise(whole, dict(reversed(SOURCES.items()))).name == owner(name)


@pytest.mark.parametrize("name", SOURCES)
def test_the_sample_of_a_source_is_recognised_by_no_other(name: str) -> None:
    sample = SOURCES[name].sample("01")
    assert {each.name for each in SOURCES.values() if each.bid(sample) > 1} <= {name}


@st.composite
def variations(draw: st.DrawFn) -> Any:
    """A sender's body with some fields of it and of an object in it replaced by any JSON."""
    whole = copy.deepcopy(body(draw(st.sampled_from(SAMPLES))))
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from(list(objects_in(whole))))
        if part and draw(st.booleans()):
            part[draw(st.sampled_from(sorted(part)))] = draw(values)
        else:
            part.update(draw(objects))
    return whole


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=variations(), source=st.sampled_from([None, *SHIPPED, "generic"]))
def test_any_variation_is_alerts_or_bad_input(payload: Any, source: str | None) -> None:
    try:
        push = parse_push(payload, source=source)
    except BadInput as refused:
        assert_sentence(str(refused))
        return
    assert bool(push.alerts) or bool(push.ignored)
    for alert in push.alerts:
        assert_storable(alert)
        assert alert.source == push.source
    for error in push.errors:
        assert_sentence(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=variations(), order=st.permutations(list(SOURCES)))
def test_the_order_of_the_sources_decides_nothing(payload: Any, order: list[str]) -> None:
    def recognised(sources: Sources) -> str | None:
        try:
            return recognise(payload, sources).name
        except BadInput:
            return None

    assert recognised({name: SOURCES[name] for name in order}) == recognised(SOURCES)


@pytest.mark.parametrize("name", FIRING)
def test_under_the_address_of_the_generic_source_it_is_read_as_well(name: str) -> None:
    # Whoever has sent it there keeps the identity of what is open.
    own, generic = (only(parse_push(body(name), source=source)) for source in (None, "generic"))
    assert generic.source == "generic"
    assert generic.fingerprint == own.fingerprint
    assert generic.incident_key == own.incident_key.replace(f"{own.source}:", "generic:", 1)


def test_a_message_of_sns_that_is_no_alarm_is_a_page() -> None:
    asks = only(parse_push(body("cloudwatch-sns/odd_confirmation")))
    assert (asks.name, asks.severity) == (
        "Amazon SNS waits for somebody to confirm its subscription",
        Severity.INFO,
    )
    assert asks.links == {}
    assert f"SNS_CONFIRM_TOPICS={asks.labels['topic']}" in asks.description
    text = only(parse_push(body("cloudwatch-sns/odd_text")))
    assert (text.name, text.description) == ("RDS Notification Message", "A backup of orders-db has failed.")


def test_a_certificate_that_expires_is_not_ended_by_a_good_check() -> None:
    for source in ("uptime-kuma", "uptime-robot"):
        expires, up = (only(parse_push(body(f"{source}/{kind}"))) for kind in ("odd", "resolved"))
        assert expires.fingerprint != up.fingerprint


def test_icinga_and_a_script_with_a_name_of_its_own() -> None:
    sent = {"host": "web-1", "service": "shop", "state": "CRITICAL"}
    assert only(parse_push(sent)).source == "nagios"
    by_hand = only(parse_push({**sent, "name": "Orders fail"}))
    assert (by_hand.source, by_hand.name) == ("generic", "Orders fail")
