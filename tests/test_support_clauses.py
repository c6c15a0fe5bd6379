"""What a claim hangs on a true sentence: it stands only if the evidence that it cites has that, too."""

from __future__ import annotations

import pytest

from orchestration.contracts import CheckStatus, Claim, ClaimKind, Evidence, EvidenceKind
from orchestration.support import adds, unsupported

ALERT = Evidence(
    id="alert-1",
    kind=EvidenceKind.ALERT,
    about="db-77:9100",
    says="MemoryHigh (critical, firing) Memory of db-77 is 97 % used by java. Swap is 3 % used. Replication lag is 2 "
    "s. [instance=db-77:9100, job=dbs, severity=critical]",
)
CHECK = Evidence(
    id="check-1",
    kind=EvidenceKind.CHECK,
    about="db-77",
    says="memory is critical: 97 % used, java was killed by the OOM killer",
    status=CheckStatus.CRITICAL,
    topic="memory",
)
EVENT = Evidence(
    id="event-1",
    kind=EvidenceKind.EVENT,
    about="service=web",
    says="deploy at 2026-11-27 10:04:00 UTC by Jane: web v2.31",
)
KNOWN = {one.id: one for one in (ALERT, CHECK, EVENT)}


def falls(says: str, *cites: str, quotes: tuple[str, ...] = ("97 % used",), **fields: str) -> str | None:
    claim = Claim(kind=ClaimKind.CAUSE, says=says, cites=list(cites), quotes=list(quotes), **fields)
    return unsupported(claim, KNOWN) or adds(claim, KNOWN)


@pytest.mark.parametrize(
    "hung",
    [
        "since the deploy of web",
        "since the last deploy",
        "because the nightly backup runs",
        "after the release of checkout",
        "due to a bug in the garbage collector",
        "owing to yesterday's migration",
        "as the nightly job is stuck",
        "during the backup window",
        "when customers check out",
        "from an attack",
        "so that orders are lost",
        "so customers cannot pay",
        "and customers cannot pay",
        ", customers cannot pay",
        ", which breaks the shop",
        ", leaving no sessions",
        "leaking sessions",
        "(the nightly backup)",
        "- a leak of the driver",
        "; the backup caused it",
        ". The deploy of web did it",
        "and the host is unreachable",
        "and swap is exhausted",
        "triggered by the backup",
        "with the new release",
    ],
)
def test_a_reason_or_a_consequence_that_nobody_has_seen_falls(hung: str) -> None:
    assert falls(f"Memory of db-77 is 97 % used by java {hung}".replace(" ,", ",").replace(" .", "."), "alert-1")


@pytest.mark.parametrize(
    "says",
    [
        "Since the deploy of web, memory of db-77 is 97 % used by java",
        "Because the nightly backup runs, memory of db-77 is 97 % used by java",
        "The nightly backup: memory of db-77 is 97 % used by java",
        "Customers cannot pay because memory of db-77 is 97 % used by java",
    ],
)
def test_it_falls_in_front_of_the_true_sentence_as_well(says: str) -> None:
    assert falls(says, "alert-1")


def test_the_topic_that_a_model_gives_is_no_evidence() -> None:
    assert falls("Memory of db-77 is 97 % used by java since the last deploy", "alert-1", topic="deploy")


def test_a_claim_of_the_cpu_cites_evidence_that_speaks_of_it() -> None:
    says = falls("CPU of db-77 is overloaded by java", "alert-1", quotes=("used by java",), topic="cpu")
    assert says == "its evidence does not speak of cpu"


@pytest.mark.parametrize(
    ("says", "cites"),
    [
        ("Memory of db-77 is 97 % used by java", ["alert-1"]),
        ("Memory of db-77 is 97 % used by java, and swap is 3 % used", ["alert-1"]),
        ("Memory of db-77 is 97 % used by java while replication lag is 2 s", ["alert-1"]),
        ("Memory is exhausted because java has 97 % of it", ["alert-1"]),
        ("Memory is 97 % used, so the OOM killer killed java", ["check-1"]),
        ("Memory of db-77 is 97 % used since web v2.31 was deployed at 10:04", ["alert-1", "event-1"]),
        ("Memory of db-77 is 97 % used after the deploy of web", ["alert-1", "event-1"]),
    ],
)
def test_what_is_seen_may_be_hung_on(says: str, cites: list[str]) -> None:
    assert falls(says, *cites) is None
