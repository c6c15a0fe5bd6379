"""The rule by which what a claim hangs on a true sentence has to be in its evidence, too. Pure.

"Memory is 97 % used since the deploy of web": the number is seen, the deploy is what a person acts on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from orchestration.contracts import Claim, Evidence, EvidenceKind
from orchestration.orders import without_orders
from orchestration.redaction import one_line
from orchestration.statements import Statement, statements, with_spaces
from orchestration.support_statements import of_its_own, statements_of
from orchestration.vocabulary import CAPACITIES, FULL, ILL, WELL, stem

_HUNG = re.compile(
    r"(?<=[.!?;:\n)\]])\s+|\s*[,;\[|\]()]\s*|\s+[-\u2013\u2014]\s+"
    r"|(?:^|\s+)(?=(?:and|but|or|so|since|because|cause|as|after|afterwards|before|following|due|owing|thanks|given|during"
    r"|while|whilst|when|whenever|once|until|till|amid|amidst|despite|although|though|if|unless|where|whereas|whereby"
    r"|which|who|whose|that|thus|hence|therefore|thereby|then|with|without|within|via|through|by|from|for|under|upon"
    r"|caused|triggered|driven|induced|blamed|attributed|leads?|led|means|meaning|makes?|made|explains?|explained"
    r"|(?!during\b|following\b)[a-z]{3,}ing)\s)",
    re.IGNORECASE,
)
"""Before which words a clause hangs on what stands before it."""

_AMOUNT_OF_ILL = 80.0
"""Percent in use from which something may be called short."""


@dataclass(frozen=True)
class _Known:
    """What the cited evidence speaks of."""

    raw: str
    words: Set[str]
    statements: Sequence[Statement]

    @classmethod
    def of(cls, cited: Sequence[Evidence]) -> _Known:
        said = " ".join(f"{one.about} {one.topic} {one.kind} {without_orders(one)}" for one in cited)
        words = {word for each in statements(said) for word in (*each.about, *map(stem, each.words))}
        words |= {"deploy"} if any(one.kind is EvidenceKind.EVENT for one in cited) else set[str]()
        words |= {"disk"} if re.search(r"\s/(?:[\w.-]+/?)*\s.*\d\s?%|\d\s?%.*\s/", said) else set[str]()
        return cls(with_spaces(said).casefold(), words, [each for one in cited for each in statements_of(one)])

    def has(self, word: str) -> bool:
        return word in self.words or re.search(rf"(?<![^\W_]){re.escape(word)}", self.raw) is not None

    def judges_alike(self, word: str, clause: Statement) -> bool:
        """Whether something is called well or ill there, as it is called here."""
        if self.has(stem(word)):
            return True
        about = [one for one in self.statements if not clause.resources or clause.resources & one.subject]
        if word in FULL and clause.resources & CAPACITIES:
            return any(used >= _AMOUNT_OF_ILL for one in about for used in one.used) or _ill(about)
        return bool(clause.about) and any(one.sense == clause.sense for one in about if one.about & clause.about)


def _ill(some: Sequence[Statement]) -> bool:
    return any(one.sense == "ill" for one in some)


def of_resources(claim: Claim, cited: Sequence[Evidence]) -> str | None:
    """A claim of the CPU cites evidence that speaks of it."""
    known = _Known.of(cited)
    named = {word for each in of_its_own(claim, cited) for word in each.resources}
    if missing := sorted(word for word in named if not known.has(word)):
        return f"its evidence does not speak of {missing[0]}"
    return None


def of_clauses(claim: Claim, cited: Sequence[Evidence]) -> str | None:
    """Every clause but the best supported one is in the evidence word for word, and that one is for the most part."""
    known = _Known.of(cited)
    said = re.sub(r"\bas well(?: as)?\b", "and", " ".join(each.text for each in of_its_own(claim, cited)))
    clauses = [one for one in (part.strip() for part in _HUNG.split(said)) if one]
    unknown = [_unknown(clause, known) for clause in clauses]
    if len(clauses) < 2:
        return None  # the other rules follow one clause
    main = max(range(len(clauses)), key=lambda place: _support(clauses[place], unknown[place]))
    for place, (clause, words) in enumerate(zip(clauses, unknown, strict=True)):
        if words and place != main:
            return f"its evidence does not have {one_line(words[0], 40)}: {one_line(clause, 80)!r}"
    return None


def _support(clause: str, unknown: Sequence[str]) -> int:
    return sum(len(each.about) for each in statements(clause)) - 2 * len(unknown)


def _unknown(clause: str, known: _Known) -> list[str]:
    """What a clause speaks of, or how it judges, and its evidence does not."""
    found: list[str] = []
    for each in statements(clause):
        found += sorted(word for word in each.about if not known.has(word))
        judging = [word for word in each.words if word in WELL or word in ILL]
        found += [word for word in judging if not known.judges_alike(word, each)]
    return found
