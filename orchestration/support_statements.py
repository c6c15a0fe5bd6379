"""The rules by which each statement of a claim has to agree with the statements of its evidence. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import replace

from orchestration.contracts import Claim, Evidence, EvidenceKind
from orchestration.orders import without_orders
from orchestration.quantities import are_same, numbers_in
from orchestration.redaction import one_line
from orchestration.statements import Statement, in_digits, statements, with_spaces
from orchestration.support_words import NAMES_WITH_DIGITS, Text
from orchestration.vocabulary import CAPACITIES, GENERIC, stem


def of_statements(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    """What each clause of a claim says, against the clauses of its evidence that are about the same."""
    del texts
    places = {word for one in cited for each in statements(one.about) for word in each.about}
    known = [each for one in cited for each in statements_of(one)]
    last: Statement | None = None
    for mine in of_its_own(claim, cited):
        if not mine.about and last is not None:
            mine = replace(mine, inherited=mine.inherited | last.about, resources=last.resources)
        last = mine if mine.about else last
        if (why := _of_amounts(mine, known, places)) or (why := _of_sense(mine, _closest(mine, known, places))):
            return why
    return None


def of_its_own(claim: Claim, cited: Sequence[Evidence]) -> list[Statement]:
    """What a claim says beside the words of its evidence, which it may repeat."""
    says = claim.says
    repeated = [quote for quote in claim.quotes if any(_is_said_in_full(quote, one.says) for one in cited)]
    for part in (*repeated, *(one.id for one in cited)):
        says = says.replace(part, " ")
    return statements(_ASIDE.sub(" ", says))


def _is_said_in_full(quote: str, says: str) -> bool:
    """Whether a quote is all of a statement: a part of one can be put together anew."""
    sentence = rf"(?:^|[.,;:!?)\]]\s){re.escape(quote)}(?:$|(?<=[.!?])|[.,;!?]|\s\[)"
    return len(quote.split()) > 1 and re.search(sentence, says) is not None


_ASIDE = re.compile(r"\bthe alert says so, and nothing else was seen\b|^Probably (?:something that it depends on)\b")
"""What only says how sure a claim is."""


def statements_of(one: Evidence) -> list[Statement]:
    return statements(without_orders(one), names_first=one.kind is EvidenceKind.ALERT)


def _shared(mine: Statement, other: Statement, places: Set[str]) -> int:
    """How much two statements are about the same; the place of the incident counts for nothing."""
    if mine.resources and other.resources and not mine.resources & other.resources:
        return 0
    shared = mine.subject & other.about
    wider = mine.subject & other.inherited
    return 4 * len(shared - places) + 2 * len(wider - places) + (1 if not (mine.subject - places) and shared else 0)


def _closest(mine: Statement, known: Sequence[Statement], places: Set[str]) -> list[Statement]:
    rated = [(_shared(mine, other, places), other) for other in known if _says_what_is_so(other)]
    best = max((rate for rate, _ in rated), default=0)
    return [other for rate, other in rated if rate == best > 0]


def _says_what_is_so(one: Statement) -> bool:
    """Whether it is a statement: the names of alerts, labels and metrics are none."""
    return not one.is_name and "=" not in one.text and " normally " not in one.text


def _of_sense(mine: Statement, closest: Sequence[Statement]) -> str | None:
    """Whether what is said is denied there, or the other way round, or the amount is another."""
    if not closest or len(mine.words) < _WORDS_OF_A_STATEMENT:
        return None
    against = f"its evidence says otherwise: {one_line(closest[0].text, 80)!r}"
    senses = {other.sense for other in closest}
    if (mine.sense == "ill" and senses == {"well"}) or (mine.sense == "well" and senses == {"ill"}):
        return against
    denied = [other.denies for other in closest]
    if mine.denies and not any(denied) and mine.sense == "ill" and "ill" not in senses:
        return against
    if not mine.denies and mine.sense != "ill" and all(denied):
        return against
    amounts = [used for other in closest for used in other.used]
    if amounts and mine.resources & CAPACITIES:
        if mine.says_full and max(amounts) < _FULL_FROM:
            return against
        if mine.sense == "well" and not mine.used and min(amounts) >= _HIGH_FROM:
            return against
    return None


_WORDS_OF_A_STATEMENT = 2
_FULL_FROM, _HIGH_FROM = 50.0, 90.0
"""Percent in use: below the first nothing is full, and from the second on nothing is idle."""


def _of_amounts(mine: Statement, known: Sequence[Statement], places: Set[str]) -> str | None:
    """A number is of what the claim says that it is of."""
    subject = mine.subject - places or mine.subject
    if not subject:
        return None
    elsewhere = {word for other in known if not other.is_name for word in other.about}
    for number in numbers_in(NAMES_WITH_DIGITS.sub(" ", in_digits(mine.text))):
        having = [other for other in known if any(are_same(number, each) for each in numbers_in(in_digits(other.text)))]
        if having and not any(_is_of(mine, subject, other, elsewhere) for other in having):
            return f"its evidence has {one_line(number.shown, 40)} of something else: {one_line(having[0].text, 80)!r}"
    return None


def _is_of(mine: Statement, subject: Set[str], other: Statement, elsewhere: Set[str]) -> bool:
    if mine.resources and other.resources:
        return bool(mine.resources & other.resources)
    return not other.subject or bool(subject & other.subject) or not subject & elsewhere


def of_names(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    """A claim brings in nobody and nothing that its evidence does not have."""
    del texts
    said = " ".join(f"{one.about} {one.topic} {one.kind} {without_orders(one)}" for one in cited)
    known = {word for each in statements(f"{said} {claim.topic}") for word in each.about}
    known |= {"deploy"} if any(one.kind is EvidenceKind.EVENT for one in cited) else set[str]()
    raw = with_spaces(said).casefold()
    own = {word for each in of_its_own(claim, cited) for word in each.about}
    unknown = {word for word in own if word not in known and word not in raw}
    culprits = {
        stem(word) for found in _CULPRIT.findall(claim.says.casefold()) for word in found if word not in GENERIC
    }
    names = {stem(word.casefold()) for word in _PROPER.findall(claim.says) if word.casefold() not in GENERIC}
    culprits |= {word for word in _PLACED.findall(claim.says.casefold()) if word not in raw}
    if invented := sorted((unknown & (culprits | names)) | {word for word in culprits if "-" in word}):
        return f"its evidence does not have {one_line(invented[0], 40)}"
    places = {word for one in cited for each in statements(one.about) for word in each.about}
    told = own - places
    if 2 * len(unknown) > len(told):
        return f"its evidence hardly speaks of what it says: it has no {one_line(', '.join(sorted(unknown)), 60)}"
    return None


_CULPRIT = re.compile(
    r"\b(?:by|because of|due to|owing to|thanks to)\s(?:the\s|a\s|an\s)?([a-z][a-z0-9]*)"
    r"|^(?:the\s)?([a-z][a-z0-9]*)\s(?:(?:is|are|has)\s)?(?:us|hold|eat|consum|tak|fill|leak|caus|block|hogg?)(?:es?|s|ed|ing)\b"
)
_PLACED = re.compile(r"\b(?:of|on|at|from|by)\s([a-z][a-z0-9]*(?:-[a-z0-9]+)+)")
_PROPER = re.compile(r"(?<=\w\s)([A-Z][A-Za-z0-9]+)")
