"""Whether evidence says what a claim says. Pure: no model judges another one.

The rules read numbers in any notation, quotes in any spacing, and negations. A claim that they cannot follow is
refused: what is shown to a person at night has to stand in what was seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from orchestration.contracts import CheckStatus, Claim, ClaimKind, Evidence, EvidenceKind
from orchestration.orders import dismisses, without_dismissals, without_orders
from orchestration.redaction import one_line
from orchestration.statements import statements
from orchestration.support_clauses import of_clauses, of_resources
from orchestration.support_measured import contradicted
from orchestration.support_statements import of_names, of_statements
from orchestration.support_words import Text, of_numbers, of_quotes, of_words
from orchestration.vocabulary import SURELY_ILL, SURELY_WELL


def unsupported(claim: Claim, evidence: Mapping[str, Evidence]) -> str | None:
    """Why a claim does not stand; None if it does.

    It has to cite evidence that exists. What it quotes, each number that it names, and at least one of its words have
    to be there, not negated, and not in a sentence that tells its reader what to say. And a check that is ok supports
    no claim of a cause, as nothing but healthy evidence supports a claim of health.
    """
    if not claim.says.strip():
        return "it says nothing"
    if not claim.cites:
        return "it cites no evidence"
    if missing := [cited for cited in claim.cites if cited not in evidence]:
        return f"it cites evidence that does not exist: {', '.join(one_line(one, 40) for one in missing[:3])}"
    cited = [evidence[one] for one in claim.cites]
    by_alerts = all(one.kind is EvidenceKind.ALERT for one in cited)
    if by_alerts and dismisses(claim.says) and not names_trouble(without_dismissals(claim.says)):
        return "it says that nobody has to act, and nothing but an alert's own text says so"
    texts = [Text.of(f"{one.about} {without_orders(one)}") for one in cited]
    rules = (of_quotes, of_numbers, _of_checks, _of_direction, of_words, of_statements, of_names)
    why = next((why for rule in rules if (why := rule(claim, cited, texts)) is not None), None)
    return why or contradicted(claim, cited, evidence)


def adds(claim: Claim, evidence: Mapping[str, Evidence]) -> str | None:
    """What a supported claim adds to its evidence in free words; None if nothing.

    The local analysis writes its conclusions in fixed words, and is not asked.
    """
    cited = [evidence[one] for one in claim.cites]
    return next((why for rule in (of_resources, of_clauses) if (why := rule(claim, cited)) is not None), None)


def names_trouble(text: str) -> bool:
    """Whether a text says what is short, failing or out of order, or how much of something is in use."""
    return any(each.sense == "ill" or each.resources or each.used for each in statements(text))


# Rules: each says why a claim does not stand


def _of_checks(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    del texts
    checks = [one for one in cited if one.status is not None]
    about = [one for one in checks if one.topic and one.topic.casefold() == claim.topic.casefold()]
    judged = about or checks
    if claim.kind is ClaimKind.CAUSE:
        against = [one for one in judged if one.status is CheckStatus.OK]
    elif claim.kind is ClaimKind.HEALTHY:
        against = [one for one in checks if one.is_unhealthy]
        healthy = any(one.status is CheckStatus.OK for one in checks) or any(map(_is_well, cited))
        if not against and not healthy:
            return "it says that something is healthy, and cites nothing that has looked and found it so"
    else:
        against = []
    if against and (claim.kind is ClaimKind.HEALTHY or len(against) == len(judged)):
        return f"{against[0].id} says the opposite: {against[0].status}"
    return _of_polarity(claim, judged)


def _is_well(one: Evidence) -> bool:
    """Whether evidence that is no check says that something is over, or as it usually is."""
    if one.kind is EvidenceKind.ALERT:
        return re.search(r"\((?:critical|warning|info), resolved\)", one.says) is not None
    return one.kind is EvidenceKind.CHANGE and _direction(one) == ""


def _of_polarity(claim: Claim, checks: Sequence[Evidence]) -> str | None:
    """Words against the kind: "memory is fine" as a cause, about a check that is critical."""
    if not checks:
        return None
    text = Text.of(claim.says)

    def says(some: frozenset[str], other: frozenset[str]) -> bool:
        plain = any(word in some and not text.denies(place) for place, word in enumerate(text.words))
        return plain or any(word in other and text.denies(place) for place, word in enumerate(text.words))

    well, ill = says(SURELY_WELL, SURELY_ILL), says(SURELY_ILL, SURELY_WELL)
    if well and not ill and all(one.is_unhealthy for one in checks):
        return f"{checks[0].id} says the opposite: {checks[0].status}"
    if ill and not well and all(one.status is CheckStatus.OK for one in checks):
        return f"{checks[0].id} says the opposite: {checks[0].status}"
    return None


_UP = re.compile(
    r"\b(?:rose|rises?|rising|risen|increas\w+|higher|above|grew|grown|growing|climb\w+|spik\w+|jump\w+)\b"
)
_DOWN = re.compile(
    r"\b(?:fell|falls?|falling|fallen|decreas\w+|lower|below|dropp?\w*|shrank|shrunk|shrink\w*|declin\w+|sank)\b"
)
_RANGE = re.compile(r" is (-?[\d.e+]+), normally (-?[\d.e+]+) to (-?[\d.e+]+)")


def _direction(one: Evidence) -> str | None:
    """Where a series has gone: up, down, or "" for nowhere. None means that this is no change."""
    found = _RANGE.search(one.says) if one.kind is EvidenceKind.CHANGE else None
    if found is None:
        return None
    try:
        now, low, high = (float(number) for number in found.groups())
    except ValueError:
        return None
    return "up" if now > high else "down" if now < low else ""


def _of_direction(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    del texts
    says = claim.says.casefold()
    wanted = {name for name, pattern in (("up", _UP), ("down", _DOWN)) if pattern.search(says)}
    known = {one.id: direction for one in cited if (direction := _direction(one)) is not None}
    if len(wanted) != 1 or not known or wanted & set(known.values()):
        return None
    if any(one.id not in known for one in cited):
        return None  # something else may have risen
    name, direction = next(iter(known.items()))
    return f"{name} says the opposite: it is {direction or 'as it usually is'}"
