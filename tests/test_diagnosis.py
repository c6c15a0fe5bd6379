"""What the local diagnosis makes of the evidence: words, checks, series, changes by people, and what came before."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.alert import Alert, Incident
from orchestration.analysis import AnalysisInput
from orchestration.contracts import (
    Change,
    ChangeEvent,
    Check,
    CheckResult,
    CheckStatus,
    ClaimKind,
    Episode,
    Target,
)
from orchestration.support import unsupported
from tasks.analyze.diagnosis import Diagnosis, diagnose
from tasks.analyze.topics import CLEAR_WORDS, Topic, topic_of_metric, topics_in, words_of

LETTERS = st.text(string.ascii_lowercase, min_size=1, max_size=5)
BEGAN = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
OK, WARNING, CRITICAL, UNKNOWN = CheckStatus.OK, CheckStatus.WARNING, CheckStatus.CRITICAL, CheckStatus.UNKNOWN


def alert(name: str, description: str = "", **labels: str) -> Alert:
    return Alert(
        source="generic",
        fingerprint="f",
        name=name,
        description=description,
        labels=labels,
        incident_key="key",
        started_at=BEGAN,
    )


def seen(*changes: Change, host: str = "web-1", says: str = "", **statuses: CheckStatus) -> CheckResult:
    """What the check stage has found at a host."""
    found = [
        Check(name=name, target=host, status=status, message=says or f"{name} {status}")
        for name, status in statuses.items()
    ]
    return CheckResult(checks=found, changes=list(changes), target=Target(host=host))


def change(entity: str, metric: str, score: float = 10.0, now: float = 9.0) -> Change:
    return Change(entity=entity, metric=metric, now=now, low=1.0, high=2.0, score=score)


def deploy(minutes_before: float, **labels: str) -> ChangeEvent:
    at = BEGAN - timedelta(minutes=minutes_before)
    return ChangeEvent(id="1", at=at, kind="deploy", title="shop 2.4.1", by="ada", labels=labels)


def diagnosis(*alerts: Alert, check: CheckResult | None = None, **more: object) -> Diagnosis:
    found = diagnose(AnalysisInput(alerts=alerts, check=check, **more))  # type: ignore[arg-type]
    known = {one.id: one for one in found.evidence}
    assert [unsupported(claim, known) for claim in found.claims] == [None] * len(found.claims)
    return found


# Words


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("HighCPU", Topic.CPU),
        ("CPUThrottlingHigh", Topic.CPU),
        ("node_cpu0_busy", Topic.CPU),
        ("TooManyCPUs", Topic.CPU),
        ("MemoryPressure", Topic.MEMORY),
        ("OOMKilled", Topic.MEMORY),
        ("container oomkilled", Topic.MEMORY),
        ("DiskSpaceLow", Topic.DISK),
        ("NodeFilesystemFull", Topic.DISK),
        ("KubePersistentVolumeFillingUp", Topic.DISK),
        ("HostUnreachable", Topic.NETWORK),
        ("KubePodCrashLooping", Topic.PROCESS),
        ("SSLCertificateExpiry", Topic.CERTIFICATE),
        ("CoreDNSDown", Topic.DNS),
        ("PostgresqlTooManyConnections", Topic.CONNECTIONS),
        ("KafkaConsumerLag", Topic.BACKLOG),
        ("scpu", None),
        ("Cputnik", None),
        ("diskette", None),
        ("InMemoriam", None),
        ("checkout-errors", None),
        ("éCPU", None),
    ],
)
def test_a_topic_is_recognised_by_whole_words(name: str, topic: Topic | None) -> None:
    assert diagnosis(alert(name)).topic is topic


@given(word=st.sampled_from(sorted(set().union(*CLEAR_WORDS.values()))), before=LETTERS, after=LETTERS)
def test_a_keyword_inside_a_word_is_none(word: str, before: str, after: str) -> None:
    assert word not in words_of(before + word + after)


@given(
    word=st.sampled_from([(topic, word) for topic in Topic for word in sorted(CLEAR_WORDS[topic])]),
    mark=st.sampled_from([" ", "_", "-", ".", ":", "/", "\n", "("]),
    write=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_a_keyword_between_any_marks_is_one(word: tuple[Topic, str], mark: str, write: object) -> None:
    written = write(word[1])  # type: ignore[operator]
    assert topics_in([f"xyz{mark}{written}{mark}xyz"]) == {word[0]: 1.0}


@given(st.text())
def test_any_text_has_words(text: str) -> None:
    assert all(word == word.lower() for word in words_of(text) if word.isascii())


def test_a_name_outweighs_the_description_and_labels() -> None:
    assert diagnosis(alert("HighCPU", "memory is fine", resource="memory")).topic is Topic.CPU


def test_the_names_of_teams_and_hosts_say_nothing() -> None:
    named = alert("Slow", "memory-cache on cpu-7 is slow", team="storage", service="memory-cache", instance="cpu-7:80")
    assert diagnosis(named).topic is None


def test_annotations_are_read_but_no_links() -> None:
    linked = alert("Trouble").model_copy(update={"annotations": {"dashboard": "https://grafana.example.com/d/cpu"}})
    said = alert("Trouble").model_copy(update={"annotations": {"summary": "the CPU is busy"}})
    assert diagnosis(linked).topic is None
    assert diagnosis(said).topic is Topic.CPU


def test_an_earlier_summary_of_the_incident_is_no_evidence() -> None:
    incident = Incident(id="1", incident_key="k", title="Trouble", summary="probably the CPU", opened_at=BEGAN)
    assert diagnosis(incident=incident).topic is None


def test_words_alone_never_make_it_sure() -> None:
    assert diagnosis(alert("OOMKilled", "out of memory: memory, swap and heap")).confidence <= 0.5


# Checks


@given(topic=st.sampled_from([Topic.MEMORY, Topic.DISK, Topic.CPU, Topic.NETWORK]))
def test_the_better_a_check_supports_the_topic_the_surer(topic: Topic) -> None:
    told = alert(f"{topic} trouble")
    found = [diagnosis(told, check=seen(**{topic: status})) for status in (UNKNOWN, WARNING, CRITICAL)]
    assert {one.topic for one in found} == {topic}
    confidences = [one.confidence for one in found]
    assert confidences == sorted(set(confidences))


def test_a_critical_check_decides_between_two_topics_in_the_text() -> None:
    assert diagnosis(alert("Slow", "cpu or disk"), check=seen(cpu=OK, disk=CRITICAL)).topic is Topic.DISK


def test_without_a_word_a_critical_check_is_the_cause() -> None:
    assert diagnosis(alert("Trouble"), check=seen(disk=CRITICAL)).topic is Topic.DISK


@pytest.mark.parametrize(
    ("checker", "says", "topic"),
    [
        ("http", "503 Service Unavailable", None),
        ("tcp", "connection refused", Topic.PROCESS),
        ("tcp", "no answer after 2 s", Topic.NETWORK),
        ("http", "certificate has expired", Topic.CERTIFICATE),
        ("tls", "2 days left", Topic.CERTIFICATE),
        ("dns", "NXDOMAIN", Topic.DNS),
    ],
)
def test_a_check_from_outside_speaks_by_what_it_says(checker: str, says: str, topic: Topic | None) -> None:
    assert diagnosis(alert("Trouble"), check=seen(says=says, **{checker: CRITICAL})).topic is topic


# Nothing is wrong


def test_healthy_checks_of_the_topic_say_that_nothing_is_wrong_now() -> None:
    found = diagnosis(alert("DiskSpaceLow"), check=seen(disk=OK))
    assert (found.healthy, found.topic) == (True, None)
    assert found.claims[0].kind is ClaimKind.HEALTHY
    assert found.confidence > 0.6


def test_a_check_of_something_else_says_nothing_about_it() -> None:
    assert not diagnosis(alert("MemoryPressure"), check=seen(tcp=OK)).healthy
    assert not diagnosis(alert("DiskSpaceLow"), check=seen(disk=OK, cpu=WARNING)).healthy
    assert not diagnosis(alert("DiskSpaceLow"), check=seen(disk=UNKNOWN)).healthy


def test_a_strange_series_is_no_health() -> None:
    assert not diagnosis(alert("DiskSpaceLow"), check=seen(change("web-1", "http_errors"), disk=OK)).healthy


# What changed


def test_the_strangest_series_of_the_target_names_the_topic() -> None:
    found = diagnosis(alert("HighLatency", instance="web-1"), check=seen(change("web-1", "node_memory_used")))
    assert found.topic is Topic.MEMORY
    assert "node_memory_used is 9, normally 1 to 2" in found.claims[0].says


def test_a_strange_series_of_another_service_is_a_dependency() -> None:
    found = diagnosis(alert("HighLatency", instance="web-1"), check=seen(change("search", "latency_p99")))
    assert (found.topic, found.about) == (Topic.DEPENDENCY, "search")


def test_less_traffic_is_a_symptom_and_more_is_a_cause() -> None:
    less, more = change("web-1", "requests_per_second", now=0.1), change("web-1", "requests_per_second")
    assert diagnosis(alert("Slow", instance="web-1"), check=seen(less)).topic is None
    assert diagnosis(alert("Slow", instance="web-1"), check=seen(more)).topic is Topic.TRAFFIC


def test_a_deploy_right_before_is_the_cause_and_one_hours_before_is_none() -> None:
    told = alert("HighErrorRate", instance="web-1", service="shop")
    check = CheckResult(target=Target(host="web-1", labels={"service": "shop"}))
    just = diagnosis(told, check=check, events=[deploy(5, service="shop")])
    assert (just.topic, just.event and just.event.by) == (Topic.DEPLOY, "ada")
    assert diagnosis(told, check=check, events=[deploy(300, service="shop")]).topic is None
    assert diagnosis(told, check=check, events=[deploy(5, service="billing")]).topic is None


def test_what_came_before_is_said() -> None:
    earlier = Episode(id="7", began_at=BEGAN - timedelta(days=2), ended_by="bob", notes=["restarted the importer"])
    found = diagnosis(alert("MemoryPressure"), check=seen(memory=CRITICAL), episodes=[earlier])
    assert "restarted the importer" in found.claims[-1].says


def test_split_evidence_is_less_sure() -> None:
    one = diagnosis(alert("Slow"), check=seen(memory=CRITICAL))
    two = diagnosis(alert("Slow"), check=seen(memory=CRITICAL, disk=CRITICAL))
    assert two.confidence < one.confidence


@pytest.mark.parametrize(
    ("says", "topic"),
    [
        ("write failed: No space left on device", Topic.DISK),
        ("FATAL: sorry, too many clients already", Topic.CONNECTIONS),
        ("dial tcp: lookup db on 10.0.0.2:53: no such host", Topic.DNS),
        ("inventory answered 502 Bad Gateway", Topic.DEPENDENCY),
    ],
)
def test_the_errors_of_systems_are_known(says: str, topic: Topic) -> None:
    assert diagnosis(alert("Job failed", says)).topic is topic


def test_what_the_target_depends_on_is_named_if_that_is_down() -> None:
    check = Check(name="tcp", target="redis-1:6379", status=CRITICAL, message="connection refused")
    found = diagnosis(alert("Slow", instance="web-1"), check=CheckResult(checks=[check], target=Target(host="web-1")))
    assert (found.topic, found.about) == (Topic.DEPENDENCY, "redis-1:6379")


def test_what_is_normal_again_is_over() -> None:
    over = change("web-1", "http_errors").model_copy(update={"until": BEGAN})
    assert diagnosis(alert("Slow", instance="web-1"), check=seen(over, http=OK)).healthy


def test_a_campaign_is_no_deploy() -> None:
    newsletter = deploy(5).model_copy(update={"kind": "campaign"})
    assert diagnosis(alert("HighErrorRate"), events=[newsletter]).topic is None


def test_a_queue_with_a_full_disk_beside_it_is_a_disk() -> None:
    full = Check(name="disk", target="store-1", status=CRITICAL, message="/ is 99 % full")
    check = CheckResult(checks=[full], changes=[change("web-1", "queue_length")], target=Target(host="web-1"))
    assert diagnosis(alert("QueueGrows", "the queue grows", instance="web-1"), check=check).topic is Topic.DISK


def test_what_is_found_well_is_not_the_cause() -> None:
    told = alert("LoadHigh", "the load of the cpu is high", instance="web-1")
    assert diagnosis(told, check=seen(http=CRITICAL, cpu=OK)).topic is not Topic.CPU


def test_that_nobody_answers_is_never_surely_the_network() -> None:
    told = alert("HostUnreachable", "no answer to ping", instance="web-1")
    assert diagnosis(told, check=seen(tcp=CRITICAL, says="no answer after 2 s")).confidence < 0.6


def test_an_alert_need_not_be_in_english() -> None:
    assert diagnosis(alert("Speicherplatz knapp", "Laufwerk D: nur noch 2 % frei")).topic is Topic.DISK


# Whole


@pytest.mark.parametrize("length", range(100, 180, 7))
def test_a_long_text_of_an_alert_is_quoted_between_words(length: int) -> None:
    text = " ".join(["disk"] * length)[:length] + " degradedstate" * 20
    found = diagnosis(alert("NodeRAIDDegraded", text, host="obs-4"))
    assert (found.topic, found.claims[0].kind) == (Topic.DISK, ClaimKind.CAUSE)


def test_what_prometheus_says_of_other_topics_is_no_sign_that_all_is_well() -> None:
    check = seen(prometheus=OK, says="cpu is 18 % busy, memory is 31 % in use", host="lb-2")
    found = diagnosis(alert("HighErrorRateOfBackend", "Too many 5xx on the backend", host="lb-2"), check=check)
    assert not found.healthy


def test_all_that_is_strange_with_one_neighbour_is_one_dependency() -> None:
    changes = [change("shop-web", "requests_per_second"), change("shop-web", "cpu_busy_percent", score=6.0)]
    found = diagnosis(alert("TargetResponseTime", host="shop-alb"), check=seen(*changes, host="shop-alb"))
    assert found.topic is Topic.TRAFFIC


@pytest.mark.parametrize(
    ("metric", "topic"),
    [
        ("new_connections_per_second", Topic.TRAFFIC),
        ("packets received per second", Topic.TRAFFIC),
        ("packets dropped per second", Topic.NETWORK),
        ("connections", Topic.CONNECTIONS),
        ("node_nf_conntrack_entries", Topic.CONNECTIONS),
    ],
)
def test_how_much_is_asked_is_traffic_and_how_much_is_held_is_not(metric: str, topic: Topic) -> None:
    assert topic_of_metric(metric) is topic


@pytest.mark.parametrize(
    ("name", "says", "topic"),
    [
        ("OrdersPerMinuteLow", "Only 3 orders per minute, normally 140. Disk and CPU are fine.", None),
        ("HighLatency", "Memory of db-77 is 91 % used. CPU is 12 %. The disk is not full.", Topic.MEMORY),
        ("LoginsFail", "3400 failed logins; process memory of the attackers unknown", None),
        ("CheckoutSlow", "Memory OK, disk OK, but connections to db-1 are exhausted", Topic.CONNECTIONS),
        ("DiskLow", "Disk has 4 % left", Topic.DISK),
        ("ProcessGone", "Process asterisk is not running", Topic.PROCESS),
        ("WriteFailed", "write: no space left on device", Topic.DISK),
        ("BGPPeerDown", "Session with 192.0.2.7 is down", Topic.NETWORK),
    ],
)
def test_what_an_alert_says_is_well_is_not_the_cause(name: str, says: str, topic: Topic | None) -> None:
    assert diagnosis(alert(name, says, host="db-77")).topic is topic


@pytest.mark.parametrize("checker", ["tcp", "http", "cpu", "memory"])
def test_a_firing_alert_about_something_that_nobody_looked_at_is_not_healthy(checker: str) -> None:
    check = seen(**{checker: OK})
    assert not diagnosis(alert("InvoicesNotSent", "214 invoices have not been sent", host="web-1"), check=check).healthy


def test_a_look_of_a_moment_is_no_sure_sign_that_all_is_well() -> None:
    found = diagnosis(alert("HighCPU", host="web-1"), check=seen(cpu=OK, memory=OK))
    assert (found.healthy, found.confidence) == (True, 0.5)


def test_that_something_was_changed_before_is_no_proof() -> None:
    found = diagnosis(alert("ErrorsHigh", service="web"), events=[deploy(2)] * 5)
    assert found.topic is Topic.DEPLOY
    assert found.confidence <= 0.6


HOST = "db-77 is up, cpu 12.1 %, memory 7.8 %, disk 31.2 % of /"


@pytest.mark.parametrize("place", ["db-77:9100", "10.0.0.5:9100", "127.0.0.1:8871", "[2001:db8::7]:9100"])
@pytest.mark.parametrize(
    ("name", "says", "finding", "topic"),
    [
        ("HighCPU", "CPU of it is 98.5 %", "HighCPU is 98.5, limit > 90, normally 2 to 5", Topic.CPU),
        ("DiskFull", "/ has 3 % left", "DiskFull is 3, limit < 5, normally 40 to 60", Topic.DISK),
        ("ErrorRate", "12 % of requests fail", "ErrorRate is 0.12, limit > 0.05", None),
    ],
)
def test_the_figures_of_a_host_beside_an_alerts_own_value_are_no_cause(
    place: str, name: str, says: str, finding: str, topic: Topic | None
) -> None:
    host = place.rpartition(":")[0].strip("[]")
    check = Check(name="prometheus", target=place, status=CRITICAL, message=f"{finding}; {HOST}")
    found = diagnosis(alert(name, says, instance=place), check=CheckResult(checks=[check], target=Target(host=host)))
    assert found.topic in (topic, Topic.TRAFFIC if topic is None else topic)


@pytest.mark.parametrize(
    ("name", "says", "labels", "check"),
    [
        (
            "NodeFilesystemAlmostOutOfSpace",
            "Filesystem mounted on /data has only 2.1% available space left.",
            {"mountpoint": "/data"},
            Check(name="disk", target="vm", status=OK, message="/ is 31 % full"),
        ),
        (
            "InodesLow",
            "Filesystem / has only 1 % free inodes",
            {"mountpoint": "/"},
            Check(name="disk", target="vm", status=OK, message="/ is 31 % full"),
        ),
        (
            "RaidDegraded",
            "RAID array md0 is degraded: 1 of 2 disks failed",
            {},
            Check(name="disk", target="vm", status=OK, message="/ is 31 % full"),
        ),
        (
            "ServiceDown",
            "nginx is not running",
            {"service": "nginx"},
            Check(name="process", target="vm", status=OK, message="no process to look for is configured"),
        ),
    ],
)
def test_a_check_of_something_else_is_no_sign_that_all_is_well(
    name: str, says: str, labels: dict[str, str], check: Check
) -> None:
    there = CheckResult(checks=[check], target=Target(host="vm", is_own=True))
    assert not diagnosis(alert(name, says, instance="vm:9100", **labels), check=there).healthy


def test_a_check_of_the_very_path_is_a_sign_that_all_is_well() -> None:
    check = Check(name="disk", target="vm", status=OK, message="/data is 31 % full")
    there = CheckResult(checks=[check], target=Target(host="vm", is_own=True))
    assert diagnosis(alert("DiskFull", "/data is full", instance="vm:9100", mountpoint="/data"), check=there).healthy


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("KubeNodeNotReady", "worker-7 has been unready for more than 15 minutes."),
        ("NtpOffsetHigh", "Clock of web-3 is off by 4.2 s"),
        ("CloudBudgetExceeded", "Spend is 128 % of the budget; disk snapshots are the largest item"),
        ("Fire", "Smoke detector in rack 4 triggered; disk shelf B is nearest"),
        ("HighCPUTemp", "Fan 2 of worker-3 failed"),
        ("KubeQuotaAlmostFull", "Namespace shop uses 93 % of its quota of requests.memory"),
    ],
)
def test_an_alert_about_heat_money_or_time_is_unknown_whatever_words_it_has(name: str, says: str) -> None:
    assert diagnose(AnalysisInput(alerts=[alert(name, says)])).topic is None


def test_a_strange_series_of_what_there_is_plenty_of_is_no_cause() -> None:
    reads = change("web-1", "node_disk_read_bytes_total")
    for says, topic in (("disk 33.1 % of /", None), ("disk 91.2 % of /", Topic.DISK)):
        check = seen(reads, says=f"A is 3; web-1 is up, cpu 20 %, memory 61 %, {says}", prometheus=CRITICAL)
        assert diagnose(AnalysisInput(alerts=[alert("A", host="web-1")], check=check)).topic is topic


@pytest.mark.parametrize(
    ("name", "says", "topic"),
    [
        ("Elevated4xx", "4xx rate 22 % on web-1", None),
        ("JavaHeapAlmostFull", "Heap of tomcat is 98 % used", Topic.MEMORY),
        ("CheckoutSlow", "p95 latency 4 s", Topic.CPU),
        ("HighLoad", "CPU is 97 % busy", Topic.CPU),
    ],
)
def test_a_busy_moment_of_this_host_is_no_cause_of_something_else(name: str, says: str, topic: Topic | None) -> None:
    check = CheckResult(
        checks=[Check(name="cpu", target="web-1", status=CRITICAL, message="97 % busy")],
        target=Target(host="web-1", is_own=True),
    )
    assert diagnose(AnalysisInput(alerts=[alert(name, says, host="web-1")], check=check)).topic is topic
