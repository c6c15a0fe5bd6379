"""Whether what a claim says was measured otherwise in the same incident. Pure.

An alert says of itself what it likes; a check that has looked at the same host, or its own series, knows better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestration.contracts import CheckStatus, Claim, ClaimKind, Evidence, EvidenceKind
from orchestration.statements import Statement, in_digits, statements
from orchestration.support_statements import statements_of
from orchestration.vocabulary import CAPACITIES, RESOURCE_OF

_FAR = 25.0
"""How many points of percent apart two measurements of one thing are not both true."""

_FULL_FROM, _FREE_UNTIL = 50.0, 90.0
"""Percent in use: below the first nothing is short, and from the second on nothing is idle."""

_PART = re.compile(
    r"\b(?:heap|jvm|metaspace|container|containers|pod|pods|cgroup|slice|quota|limits?|requests?|cache|caches|buffers?"
    r"|pools?|tablespace|core \d+|cpu\d+|gpu|vram)\b"
)
"""What is a part of a host, and not the host: it can be full while the host is not."""

_TOPICS = frozenset({"prometheus", *CAPACITIES})
"""The topics of the checks that measure a host."""

_COMMA = re.compile(r"(\d),(\d{1,2})(?!\d)")
_SHORT = re.compile(r"\b(?:shortage|pressure|exhaust\w*|saturat\w*|overload\w*|starv\w*|too (?:little|few)|maxed)\b")
_ABOVE = re.compile(r"\b(?:above|over|more than|at least|exceed\w*|higher than)\s\d|[>≥]")
_BELOW = re.compile(r"\b(?:below|under|less than|at most|lower than)\s\d|[<≤]")
_BY = re.compile(r"\b(?:rose|risen|rises|grew|grown|increased|higher|fell|fallen|dropped|lower|decreased)\b.*\bby \d")
_PATH = re.compile(r"(?<![\w/.:])/(?:[\w.-]+/?)*")
_SHARE = re.compile(r"percent|pct|ratio|utili[sz]ation")
_SERIES = re.compile(r"^(\S+) (?:is|was) (-?[\d.]+(?:e[+-]?\d+)?), normally ")


def contradicted(claim: Claim, cited: Sequence[Evidence], evidence: Mapping[str, Evidence]) -> str | None:
    """Which evidence about the same target says otherwise than a claim of a cause or an effect; None if none does.

    What the claim itself cites is judged with it elsewhere.
    """
    if claim.kind is ClaimKind.HEALTHY:
        return None
    if (why := _found_well(claim, cited, evidence)) is not None:
        return why
    said = [one for one in statements(_COMMA.sub(r"\1.\2", in_digits(claim.says))) if one.resources & CAPACITIES]
    own = {one.id for one in cited if one.kind is not EvidenceKind.ALERT}
    for other in evidence.values():
        if other.id in own or not any(_is_same_host(other.about, one.about) for one in cited):
            continue
        for measured in _measured(other):
            if any(_is_of(mine, cited, measured) and _differs(mine, measured) for mine in said):
                return f"{other.id} has measured otherwise: {measured.used:g} % of {measured.resource} in use"
    return None


@dataclass(frozen=True)
class _Measured:
    """What of a host was measured."""

    resource: str
    used: float
    """Percent in use."""
    path: str = ""
    """Of a disk, where it is mounted."""
    is_fullest: bool = False
    """Whether no other disk of the host is fuller."""


def _differs(mine: Statement, measured: _Measured) -> bool:
    used = measured.used
    if mine.used and not _BY.search(mine.text):
        below = used < max(mine.used) - _FAR
        above = used > min(mine.used) + _FAR and not measured.is_fullest
        if _ABOVE.search(mine.text):
            return below
        return above if _BELOW.search(mine.text) else above or below
    if mine.says_full or _SHORT.search(mine.text):
        return used < _FULL_FROM
    return mine.sense == "well" and used >= _FREE_UNTIL and not measured.is_fullest


def _measured(one: Evidence) -> Iterator[_Measured]:
    if one.kind is EvidenceKind.CHECK and RESOURCE_OF.get(one.topic, one.topic) in _TOPICS:
        for each in statements_of(one):
            resources = (each.resources or each.inherited) & CAPACITIES
            if len(resources) == 1 and len(each.used) == 1 and not _PART.search(each.text):
                path = found[0] if (found := _PATH.search(each.text)) else ""
                yield _Measured(next(iter(resources)), each.used[0], path, one.topic == "prometheus" and bool(path))
    elif one.kind is EvidenceKind.CHANGE and (found := _SERIES.match(one.says)) and _SHARE.search(found[1]):
        resources = {word for each in statements(found[1]) for word in each.resources} & CAPACITIES
        value = float(found[2]) * (100 if "ratio" in found[1] else 1)
        if len(resources) == 1 and not _PART.search(found[1].replace("_", " ")):
            free = any(word in found[1] for word in ("free", "avail", "idle"))
            yield _Measured(resources.pop(), 100 - value if free else value)


def _is_of(mine: Statement, cited: Sequence[Evidence], measured: _Measured) -> bool:
    """Whether a statement is about what was measured, and not about a part of the host, or about another disk."""
    if measured.resource not in mine.resources:
        return False
    says = " ".join(one.says for one in cited).casefold()
    if any(part[0] in says for part in _PART.finditer(" ".join((*mine.header, mine.text)))):
        return False
    if not measured.path or measured.is_fullest:
        return True
    named = set(_PATH.findall(mine.text)) or {each for one in cited for each in _PATH.findall(one.says)}
    return not named or measured.path.rstrip("/") in {each.rstrip("/") for each in named}


def _found_well(claim: Claim, cited: Sequence[Evidence], evidence: Mapping[str, Evidence]) -> str | None:
    """What an alert says of itself is no cause while a check has found the same well."""
    if claim.kind is not ClaimKind.CAUSE or any(one.kind is not EvidenceKind.ALERT for one in cited):
        return None
    wanted = {word for each in statements(claim.says) for word in each.resources if word in CAPACITIES}
    for one in evidence.values():
        if one.kind is not EvidenceKind.CHECK or one.status is not CheckStatus.OK:
            continue
        if not any(_is_same_host(one.about, each.about) for each in cited):
            continue
        if wanted and wanted <= {word for each in statements_of(one) if each.used for word in each.resources}:
            return f"{one.id} says the opposite: {one.status}"
    return None


def _is_same_host(one: str, other: str) -> bool:
    """Whether two places are on one host, by its short name or its full one."""
    first, second = _host(one), _host(other)
    if not first or not second:
        return False
    return first == second or first.startswith(f"{second}.") or second.startswith(f"{first}.")


def _host(place: str) -> str:
    return re.sub(r"^[a-z]+://|:\d+$|/.*$", "", place.casefold())
