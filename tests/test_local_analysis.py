"""The local analysis of an alert's words, the checks, and the host that runs it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.alert import Alert, Incident
from orchestration.analysis import AnalysisInput, AnalysisProvider
from orchestration.contracts import (
    AnalyzeResult,
    ChangeEvent,
    Check,
    CheckResult,
    CheckStatus,
    Episode,
    StageContext,
    StageError,
    Target,
)
from orchestration.errors import Unavailable
from orchestration.target import OwnHost, target_of
from tasks.analyze.advice import Findings, advise
from tasks.analyze.host import FileFindings, FoundFile, look_around
from tasks.analyze.local import LocalAnalysis
from tasks.analyze.stage import AnalyzeConfig, analyze, fallback_result
from tasks.analyze.topics import Topic

CONTEXT = StageContext(trace_id="trace", run_id="run")


def alert(name: str, description: str = "", **labels: str) -> Alert:
    return Alert(
        source="generic", fingerprint="f", name=name, description=description, labels=labels, incident_key="key"
    )


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at this host may take long: other tests run beside it."""
    monkeypatch.setattr("tasks.analyze.local.LOOK_TIMEOUT_SECONDS", 20.0)


HERE = Target(host=socket.gethostname(), is_own=True)


def checks(**statuses: CheckStatus) -> CheckResult:
    """What the checks of this host have found."""
    found = [Check(name=name, status=status, message=f"{name} {status}") for name, status in statuses.items()]
    return CheckResult(checks=found, target=HERE)


async def analysis_of(
    *alerts: Alert, check: CheckResult | None = None, incident: Incident | None = None
) -> AnalyzeResult:
    case = AnalysisInput(alerts=alerts, check=check or CheckResult(target=HERE), incident=incident)
    return await analyze(CONTEXT, AnalyzeConfig(provider=LocalAnalysis(), evidence=case))


# Which host


async def test_an_alert_about_another_host_shows_nothing_of_this_one() -> None:
    for name in ("MemoryPressure", "HighCPU", "DiskSpaceLow", "Trouble"):
        there = CheckResult(target=Target(host="db-1.example.com", port=9100))
        result = await analysis_of(alert(name, instance="db-1.example.com:9100"), check=there)
        shown = result.model_dump_json()
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", shown)
        assert "(pid " not in shown
        assert all(
            action.startswith("on db-1.example.com: ") for each in result.recommendations for action in each.actions
        )


async def test_a_host_name_that_is_a_command_gets_into_none() -> None:
    there = CheckResult(target=Target(host="x;reboot"))
    result = await analysis_of(alert("HighCPU", instance="x;reboot"), check=there)
    assert "reboot" not in "".join(action for each in result.recommendations for action in each.actions)
    assert result.recommendations[0].actions == []  # nobody knows where


# The complete analysis


@pytest.mark.parametrize(
    ("name", "cause", "command"),
    [
        ("HighCPU", "cpu", "ps aux --sort=-%cpu | head"),
        ("MemoryPressure", "memory", "ps aux --sort=-%mem | head"),
        ("DiskSpaceLow", "disk", "du -xh --max-depth=2 / 2>/dev/null | sort -h | tail"),
        ("HostUnreachable", "network", "ip -br addr"),
        ("PodCrashLooping", "process", "systemctl --failed"),
        ("CheckoutErrors", "general", "uptime; free -h; df -h"),
        ("KafkaLag", "backlog", ""),
        ("TooManyConnections", "connections", "ss -tn state established"),
    ],
)
async def test_every_cause_has_something_to_do(name: str, cause: str, command: str) -> None:
    result = await analysis_of(alert(name))
    first = result.recommendations[0]
    assert first.type == cause
    assert "".join(first.actions[:1]).startswith(command)
    assert all(advice.title and advice.priority for advice in result.recommendations)
    assert any(command in action for action in result.actions)
    assert name in result.summary
    assert result.probable_cause.startswith(cause if cause != "general" else "unknown")
    assert result.model_info == {"provider": "local"}
    assert (result.fallback_used, result.errors) == (False, [])


async def test_an_unhealthy_check_of_no_known_cause_is_recommended_too() -> None:
    result = await analysis_of(alert("HighCPU"), check=checks(http=CheckStatus.CRITICAL, cpu=CheckStatus.OK))
    advice = result.recommendations[-1]
    assert (advice.type, advice.actions) == ("general", [])
    assert result.actions[-1] == "Look at the http check too: it is critical: http critical"


async def test_memory_names_the_largest_processes() -> None:
    result = await analysis_of(alert("MemoryPressure"))
    assert "(pid " in result.recommendations[0].description
    assert "iB" in result.summary


async def test_cpu_gives_the_load_and_the_busiest_processes() -> None:
    result = await analysis_of(alert("HighCPU"))
    assert "Load average" in result.recommendations[0].description
    assert "(pid " in result.recommendations[0].description


@pytest.mark.parametrize("name", ["HighCPU", "MemoryPressure"])
async def test_a_command_line_is_never_in_the_analysis(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.analyze.host.TOP_PROCESSES", 10_000)  # so that the process is there, whatever else runs
    program = "import time\nwhile time.process_time() < 0.1: pass\nprint(1, flush=True); input()"
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "--password=hunter2", stdin=pipe, stdout=pipe
    )
    assert child.stdout is not None
    await child.stdout.readline()
    try:
        result = await analysis_of(alert(name))
        assert f"pid {child.pid}" in result.model_dump_json()
        assert "hunter2" not in result.model_dump_json()
    finally:
        child.kill()
        await child.wait()


async def test_another_unhealthy_check_is_pointed_at_too() -> None:
    result = await analysis_of(alert("HighCPU"), check=checks(cpu=CheckStatus.CRITICAL, disk=CheckStatus.CRITICAL))
    last = result.recommendations[-1]
    assert (last.type, last.priority) == ("disk", "medium")
    assert "critical" in last.title
    assert last.actions


async def test_a_look_at_this_hosts_own_health_needs_no_alert() -> None:
    healthy = await analysis_of(check=checks(cpu=CheckStatus.OK))
    assert healthy.summary.startswith("Health check: nothing is wrong there now.")
    ill = await analysis_of(check=checks(network=CheckStatus.CRITICAL))
    assert "network" in ill.summary
    assert ill.confidence >= 0.5


async def test_the_runbook_comes_first_and_what_helped_before_is_said() -> None:
    told = alert("HighCPU").model_copy(update={"links": {"runbook": "https://wiki.example.com/cpu"}})
    before = Episode(id="1", began_at=datetime.now(UTC), notes=["killed the reindexing"])
    case = AnalysisInput(alerts=[told], check=checks(cpu=CheckStatus.CRITICAL), episodes=[before])
    result = await LocalAnalysis().analyze(case)
    assert result.actions[0] == "Follow the runbook."
    assert "See what helped before: killed the reindexing" in result.actions


async def test_a_deploy_right_before_is_the_first_thing_to_look_at() -> None:
    at = datetime.now(UTC)
    told = alert("HighErrorRate").model_copy(update={"started_at": at})
    event = ChangeEvent(id="1", at=at, kind="deploy", title="shop 2.4.1", by="ada")
    result = await LocalAnalysis().analyze(AnalysisInput(alerts=[told], events=[event]))
    assert result.actions[0].startswith("Consider a rollback of: shop 2.4.1")
    assert "by ada" in result.actions[0]


@settings(max_examples=40, deadline=None)  # Hypothesis finds out that "FILESYSTEM" searches the disk
@given(text=st.text(), value=st.text())
async def test_any_alert_gets_an_analysis(text: str, value: str) -> None:
    odd = Alert(
        source="x", fingerprint="f", name="x" + text, incident_key="k", description=text, labels={"host": value}
    )
    result = await analysis_of(odd)
    assert result.summary
    assert result.summary.isprintable()
    assert result.actions


async def test_ten_thousand_alerts_of_one_incident_are_judged_by_some() -> None:
    result = await analysis_of(*(alert("HighCPU", "x" * 1000, instance=f"web-{n}") for n in range(10_000)))
    assert "web-0 and 9999 more" in result.summary
    assert len(result.summary) < 400


# Files


def write_file(path: Path, size_mib: int, age_days: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_mib << 20)
    moment = time.time() - age_days * 86400
    os.utime(path, (moment, moment))
    return str(path)


def paths(files: Iterable[FoundFile]) -> list[str]:
    return [file.path for file in files]


def test_large_and_old_files_are_found_the_largest_first(tmp_path: Path) -> None:
    small = write_file(tmp_path / "small", 1)
    large = write_file(tmp_path / "data" / "large", 60)
    larger = write_file(tmp_path / "data" / "larger", 70)
    old = write_file(tmp_path / "log" / "old.log", 11, age_days=40)
    found = look_around(str(tmp_path), 10)
    assert paths(found.large) == [larger, large]
    assert old in paths(found.old)
    assert small not in paths(found.large + found.old)
    assert (found.complete, found.files_seen) == (True, 4)


def test_a_sparse_file_counts_by_what_it_takes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert look_around(str(tmp_path), 10).large == []


def test_links_are_not_followed_and_loops_end(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_file(outside / "large", 60)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "large")
    (root / "var").symlink_to(outside)
    (root / "loop").symlink_to(root)
    found = look_around(str(root), 10)
    assert (found.large, found.complete, found.files_seen) == ([], True, 0)


def test_the_search_ends_at_its_depth(tmp_path: Path) -> None:
    deep = write_file(tmp_path / "a" / "b" / "c" / "large", 60)
    assert look_around(str(tmp_path), 10, depth_limit=2).large == []
    assert paths(look_around(str(tmp_path), 10, depth_limit=3).large) == [deep]


def test_the_search_ends_when_its_time_is_up() -> None:
    found = look_around("/", 0.0)
    assert (found.complete, found.files_seen) == (False, 0)


def test_other_file_systems_are_left_alone() -> None:
    found = look_around("/", 0.1)
    device = Path("/").stat().st_dev
    assert all(Path(path).lstat().st_dev == device for path in paths(found.large))


def test_a_file_name_is_made_harmless_before_it_gets_into_a_command() -> None:
    names = ["/tmp/$(reboot)", "/tmp/a b; rm -rf ~", "/tmp/bell\x07", "/tmp/-rf"]
    found = FileFindings("/tmp", old=[FoundFile(2**30, name, 99) for name in names])
    advice = advise(Topic.DISK, Findings(files=found))
    listing = next(action for one in advice for action in one.actions if action.startswith("ls"))
    assert shlex.split(listing)[3:] == [name for name in names if name.isprintable()]
    assert "\x07" not in "".join(one.description for one in advice)


async def test_an_alert_cannot_send_the_search_into_any_folder(tmp_path: Path) -> None:
    result = await analysis_of(alert("DiskSpaceLow", mountpoint=str(tmp_path)))
    assert str(tmp_path) not in result.recommendations[0].title


async def test_the_fullest_path_of_the_check_is_searched(tmp_path: Path) -> None:
    write_file(tmp_path / "large", 60)
    full = Check(name="disk", status=CheckStatus.CRITICAL, message="full", metrics={"worst_path": str(tmp_path)})
    result = await analysis_of(alert("DiskSpaceLow"), check=CheckResult(checks=[full], target=HERE))
    assert str(tmp_path / "large") in result.summary
    assert result.confidence > 0.6


async def test_a_search_that_cannot_begin_leaves_the_analysis_standing() -> None:
    gone = Check(name="disk", status=CheckStatus.CRITICAL, message="full", metrics={"worst_path": "/no/such"})
    result = await analysis_of(alert("DiskSpaceLow"), check=CheckResult(checks=[gone], target=HERE))
    assert result.recommendations[0].actions
    assert "could not look at this host for disk" in result.errors[0]


# The stage


class Fixed:
    """A provider that returns a prepared result."""

    name = "fixed"

    def __init__(self, result: AnalyzeResult | Exception) -> None:
        self.result = result

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def test_an_outage_of_the_provider_is_an_error() -> None:
    provider: AnalysisProvider = Fixed(ConnectionError("no model"))
    with pytest.raises(ConnectionError, match="no model"):
        await analyze(CONTEXT, AnalyzeConfig(provider=provider, evidence=AnalysisInput()))


async def test_an_empty_analysis_is_no_success() -> None:
    with pytest.raises(Unavailable, match="by fixed came back empty"):
        await analyze(CONTEXT, AnalyzeConfig(provider=Fixed(AnalyzeResult(summary=" ")), evidence=AnalysisInput()))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (StageError(error_type="ConnectionError", message="no model"), "no model"),
        (StageError(error_type="TimeoutError", message=""), "an unexpected error (TimeoutError)"),
        (StageError(error_type="Unavailable", message="no model"), "no model"),
    ],
)
def test_the_fallback_says_so_and_keeps_the_cause(error: StageError, cause: str) -> None:
    result = fallback_result(error)
    assert result.summary == "AI analysis unavailable"
    assert result.actions == ["Manual investigation required"]
    assert (result.confidence, result.fallback_used, result.errors) == (0.0, True, [cause])


@pytest.mark.parametrize("says", ["FS [(C:)]: Space is critically low", "C: is 97 % full", r"C:\Logs is full"])
async def test_a_drive_is_one_of_windows(says: str) -> None:
    there = CheckResult(target=Target(host="fs-1"))
    result = await analysis_of(alert("Disk space is low", says, host="fs-1"), check=there)
    assert result.actions[0] == "Find what fills the disk: on fs-1: Get-Volume"


async def test_a_pod_gets_commands_of_kubernetes() -> None:
    pod = {"namespace": "shop", "pod": "cart-5c7d8", "container": "cart"}
    there = CheckResult(target=Target(labels=pod))
    result = await analysis_of(alert("KubePodCrashLooping", "Pod is crash looping", **pod), check=there)
    assert result.actions[0].endswith("kubectl -n shop logs cart-5c7d8 -c cart --previous --tail=50")
    hostile = {**pod, "pod": "cart; reboot"}
    result = await analysis_of(
        alert("KubePodCrashLooping", "Pod is crash looping", **hostile),
        check=CheckResult(target=Target(labels=hostile)),
    )
    assert not any("kubectl" in action for action in result.actions)


async def test_a_command_that_nobody_knows_where_to_run_is_left_out() -> None:
    result = await analysis_of(alert("DiskFull", "disk full"), check=CheckResult(target=Target()))
    assert result.actions
    assert not any("du -xh" in action for action in result.actions)


async def test_a_replica_that_is_behind_is_no_queue_of_work() -> None:
    there = CheckResult(target=Target(host="pg-2"))
    result = await analysis_of(alert("PostgresReplicationLag", "Replica is 4213 s behind", host="pg-2"), check=there)
    assert result.actions[0].startswith("See whether the replica still follows")


async def test_a_disk_that_is_not_full_is_not_searched_for_what_fills_it() -> None:
    there = CheckResult(target=Target(host="db-5"))
    says = "The disk is not full, memory is not the problem; reads take 800 ms"
    result = await analysis_of(alert("DiskReadsSlow", says, host="db-5"), check=there)
    assert result.probable_cause == "unknown"
    assert not any("fills" in action for action in result.actions)


async def test_a_disk_that_fails_is_not_searched_for_large_files() -> None:
    there = CheckResult(target=Target(host="obs-4"))
    result = await analysis_of(alert("NodeRAIDDegraded", "RAID array md2 is degraded", host="obs-4"), check=there)
    assert result.actions[0] == "See which disk of the array fails: on obs-4: cat /proc/mdstat"


async def test_a_windows_server_gets_commands_of_windows() -> None:
    there = CheckResult(target=Target(host="sql-1"))
    result = await analysis_of(alert("HighCPU", "MSSQL on Windows", host="sql-1"), check=there)
    assert result.recommendations[0].actions[0].startswith("on sql-1: Get-Process")


@pytest.mark.parametrize(
    ("description", "labels", "path"),
    [
        ("/var/lib/postgresql is 98 % full", {}, "/var/lib/postgresql"),
        ("98 % full", {"mountpoint": "/var"}, "/var"),
        ("see https://wiki.example.com/disk", {}, "/"),
        ("full", {"mountpoint": "/;reboot"}, "/"),
    ],
)
async def test_the_file_system_that_the_alert_names_is_looked_at(
    description: str, labels: dict[str, str], path: str
) -> None:
    there = CheckResult(target=Target(host="db-1"))
    result = await analysis_of(alert("DiskFull", description, host="db-1", **labels), check=there)
    assert result.recommendations[0].actions[1] == f"on db-1: df -h {path}"


async def test_a_test_notification_of_grafana_is_nothing_to_look_at() -> None:
    labels = {"alertname": "TestAlert", "instance": "Grafana"}
    test = Alert(source="grafana", fingerprint="f", name="TestAlert", incident_key="k", labels=labels)
    target = target_of([test], OwnHost("vm"))
    found = await LocalAnalysis().analyze(AnalysisInput(alerts=[test], check=CheckResult(target=target)))
    assert target is not None
    assert target.host == ""
    assert found.actions == ["Nothing is to be done: it is a test notification"]


@pytest.mark.parametrize(
    ("told", "first"),
    [
        (
            alert("KubeNodeNotReady", alertname="KubeNodeNotReady", node="worker-7", job="kube-state-metrics"),
            "See why the node is not ready: kubectl describe node worker-7",
        ),
        (
            alert("KubeQuotaAlmostFull", alertname="KubeQuotaAlmostFull", namespace="shop"),
            "See what the quota allows, and who asks for how much: kubectl -n shop describe quota",
        ),
        (
            alert("SnmpIfDown", "Interface Te1/0/12 of sw-core-1 is down", instance="sw-core-1", job="snmp"),
            "Find where the network ends",
        ),
        (
            alert("CertExpiry", "kubelet client certificate expires in 2 days", instance="worker-3:9100"),
            "Renew the certificate of worker-3",
        ),
        (
            alert("PostgresqlDeadLocks", "14 deadlocks in 1 minute", instance="pg-1:9187"),
            "See which sessions of pg-1 wait for which locks",
        ),
    ],
)
async def test_the_first_step_fits_what_the_alert_is_about(told: Alert, first: str) -> None:
    check = CheckResult(target=target_of([told], OwnHost("pipeline-1")))
    assert (await analysis_of(told, check=check)).actions[0] == first
