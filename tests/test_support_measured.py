"""What a model says of a host, and what was measured of it in the same incident."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.contracts import CheckStatus, Claim, ClaimKind, Evidence, EvidenceKind
from orchestration.support import unsupported


def alert(says: str, about: str = "db-77:9100") -> Evidence:
    return Evidence(
        id="alert-1", kind=EvidenceKind.ALERT, about=about, says=f"Mem0 (critical, firing) {says} [job=dbs]"
    )


def check(
    says: str, about: str = "db-77", topic: str = "prometheus", status: CheckStatus = CheckStatus.CRITICAL
) -> Evidence:
    return Evidence(
        id="check-1",
        kind=EvidenceKind.CHECK,
        about=about,
        says=f"{topic} is {status}: {says}",
        status=status,
        topic=topic,
    )


FIGURES = check("the alert's expression is 7.249; db-77 is up, cpu 87.32 %, memory 7.249 %, disk 33.14 % of /")


def why_not(says: str, of_alert: Evidence, *others: Evidence, **fields: Any) -> str | None:
    claim = Claim(kind=fields.pop("kind", ClaimKind.CAUSE), says=says, cites=fields.pop("cites", ["alert-1"]), **fields)
    return unsupported(claim, {one.id: one for one in (of_alert, *others)})


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("Memory of db-77 is 97 % used.", "Memory of db-77 is 97 % used"),
        ("Memory of db-77 is above 95 %.", "Memory of db-77 is above 95 %"),
        ("Memory of db-77 is exhausted.", "Memory of db-77 is exhausted"),
        ("Memory of db-77 is short.", "The memory of db-77 is short"),
        ("Memory pressure on db-77 is high.", "Memory pressure on db-77 is high"),
        ("Memory of db-77 has 3 % left.", "Only 3 % of the memory of db-77 are left"),
        ("CPU of db-77 is 12 % busy.", "The CPU of db-77 is 12 % busy"),
        ("Disk of db-77 is 98 % full.", "The disk of db-77 is 98 % full"),
        ("Disk /data of db-77 is 98 % full.", "The disk /data of db-77 is 98 % full"),
        ("Memory of db-77 rose from 7 % to 97 %.", "Memory of db-77 rose from 7 % to 97 %"),
    ],
)
@pytest.mark.parametrize("kind", [ClaimKind.CAUSE, ClaimKind.EFFECT])
def test_a_claim_falls_that_the_hosts_own_figures_contradict(told: str, says: str, kind: ClaimKind) -> None:
    assert why_not(says, alert(told)) is None or kind is ClaimKind.EFFECT
    found = why_not(says, alert(told), FIGURES, kind=kind)
    assert found is not None
    assert "check-1 has measured otherwise" in found


@pytest.mark.parametrize(
    ("told", "says", "other"),
    [
        ("Memory of db-77 is 8 % used.", "Memory of db-77 is 8 % used", FIGURES),
        ("CPU of db-77 is overloaded.", "The CPU of db-77 is overloaded", FIGURES),
        ("CPU of db-77 is above 50 %.", "The CPU of db-77 is above 50 %", FIGURES),
        ("Heap of tomcat on db-77 is 98 % used.", "The heap of tomcat on db-77 is 98 % used", FIGURES),
        ("Disk /boot of db-77 is 2 % used.", "The disk /boot of db-77 is 2 % used", FIGURES),
        ("Memory of db-77 is 97 % used.", "Memory of db-77 is 97 % used", check("memory 7 %", about="db-78")),
        (
            "Disk /data of db-77 is 98 % full.",
            "The disk /data of db-77 is 98 % full",
            check("/ is 85 % full", topic="disk", status=CheckStatus.WARNING),
        ),
        ("Memory of db-77 is 97 % used.", "Memory of db-77 is 97 % used", check("java has 60 % cpu", topic="process")),
    ],
)
def test_a_claim_stands_that_they_do_not_contradict(told: str, says: str, other: Evidence) -> None:
    assert why_not(says, alert(told), other) is None


def test_a_host_is_the_same_by_its_short_name_and_a_check_of_its_own_by_its_topic() -> None:
    told = alert("Memory of db-77 is 97 % used.", about="db-77.example.com:9100")
    measured = check("7 % used of 64 GiB", topic="memory", status=CheckStatus.WARNING)
    assert why_not("Memory of db-77 is 97 % used", told, measured) is not None


def test_a_series_of_the_host_is_a_measurement_too() -> None:
    series = Evidence(
        id="change-1",
        kind=EvidenceKind.CHANGE,
        about="db-77:9100",
        says="memory_used_percent is 7.249, normally 5.303 to 14.63, since 07:09:45 UTC",
    )
    assert why_not("Memory of db-77 is 97 % used", alert("Memory of db-77 is 97 % used."), series) is not None
