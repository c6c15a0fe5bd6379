"""Whether evidence says what a claim says. Pure: no model judges another one.

The rules read numbers in any notation, quotes in any spacing, and negations. A claim that they cannot follow is
refused: what is shown to a person at night has to stand in what was seen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from orchestration.contracts import CheckStatus, Claim, ClaimKind, Evidence, EvidenceKind
from orchestration.orders import dismisses, without_dismissals, without_orders
from orchestration.quantities import are_same, numbers_in, plain_number
from orchestration.redaction import one_line
from orchestration.statements import CAPACITIES, GENERIC, Statement, in_digits, statements, stem, with_spaces


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
    texts = [_Text.of(f"{one.about} {without_orders(one)}") for one in cited]
    rules = (_of_quotes, _of_numbers, _of_checks, _of_direction, _of_words, _of_statements, _of_names)
    why = next((why for rule in rules if (why := rule(claim, cited, texts)) is not None), None)
    return why or _of_other_checks(claim, cited, evidence)


def names_trouble(text: str) -> bool:
    """Whether a text says what is short, failing or out of order, or how much of something is in use."""
    return any(each.sense == "ill" or each.resources or each.used for each in statements(text))


# Texts


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DASHES = str.maketrans({"\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_WORD = re.compile(r"[^\W_]+(?:[.,'](?=\w)[^\W_]+)*|%|[.!?;]")
_ENDS = frozenset(".!?;")
_NEGATIONS = _words(
    "not no never none without cannot isn't aren't wasn't weren't doesn't don't didn't hasn't haven't won't can't nor"
    " neither nicht kein keine hardly"
)
_NEGATION_REACH = 3
"""How many words after a negation it still denies."""

_COMMON = _words(
    "the and that this with from for are was were has have had been its it is on of to in at by as an or be not no"
    " now there which will would can could should may might after before about because since than then also into"
    " over under more most very all any some one two host alert check evidence shows show says said likely probably"
    " cause causes caused due problem issue system"
)
"""Words that say nothing of what a claim is about."""


@dataclass(frozen=True)
class _Text:
    """A text as words, in which quotes are searched."""

    words: tuple[str, ...]
    raw: str
    ends: frozenset[int]
    """The words before which a sentence ends."""

    @classmethod
    def of(cls, text: str) -> _Text:
        plain = unicodedata.normalize("NFKC", with_spaces(text)).translate(_DASHES).replace("’", "'").casefold()
        words: list[str] = []
        ends: set[int] = set()
        for word in _WORD.findall(plain):
            if word in _ENDS:
                ends.add(len(words))
            else:
                words.append(_plain_word(word))
        return cls(tuple(words), plain, frozenset(ends))

    def places(self, part: Sequence[str]) -> Iterator[int]:
        """Where these words stand, one after the other."""
        size = len(part)
        for start in range(len(self.words) - size + 1):
            if self.words[start : start + size] == tuple(part):
                yield start

    def denies(self, start: int) -> bool:
        """Whether what begins at this word is negated."""
        begins = max((end for end in self.ends if end <= start), default=0)
        return not _NEGATIONS.isdisjoint(self.words[max(start - _NEGATION_REACH, begins) : start])


def _plain_word(word: str) -> str:
    """A number in one notation: 98.0, 98 and 98,0 are the same word."""
    number = plain_number(word)
    return word if number is None else f"{number:g}"


def _content(words: Sequence[str]) -> set[str]:
    """The words that say what a text is about, without their endings."""
    return {_stem(word) for word in words if (len(word) > 2 and word not in _COMMON) or word[:1].isdigit()}


def _stem(word: str) -> str:
    if word[:1].isdigit():
        return word
    for ending in ("ing", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


# Rules: each says why a claim does not stand


def _of_quotes(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
    del cited
    own = _Text.of(claim.says)
    for quote in claim.quotes:
        for part in re.split(r"\u2026|\.\.\.|\[\s*\]", quote):
            words = _Text.of(part).words
            if not words:
                continue
            found = [(text, place) for text in texts for place in text.places(words)]
            if not found:
                return f"its evidence does not say {one_line(quote, 80)!r}"
            if not _NEGATIONS.isdisjoint(words):
                continue
            denied = all(text.denies(place) for text, place in found)
            affirmed = not any(text.denies(place) for text, place in found)
            mine = [own.denies(place) for place in own.places(words)]
            if (denied and not (mine and all(mine))) or (affirmed and mine and all(mine)):
                return f"its evidence says the opposite of {one_line(quote, 80)!r}"
    return None


def _of_words(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
    """A claim shares words with its evidence, or else the evidence cannot contain what it says."""
    known = _content([word for text in texts for word in text.words])
    known |= {word for one in cited for word in (_stem(one.topic.casefold()), one.kind.value) if word}
    own = _content(_Text.of(claim.says).words)
    # One word is no statement, and everything can be quoted with it.
    quoted = [quote for quote in claim.quotes if _is_statement(quote)]
    if own and not (own & known):
        return "its evidence says nothing of what it says"
    if not quoted and len(own & known) < min(2, len(own)):
        return "it quotes nothing, and its evidence hardly speaks of what it says"
    return None


def _of_checks(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
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


_WELL = _words("fine healthy normal ok okay harmless good stable idle recovered")
_ILL = _words(
    "full exhausted overloaded saturated failing failed down critical broken short unreachable crashed unhealthy"
    " starved leaking stuck dead"
)


def _of_polarity(claim: Claim, checks: Sequence[Evidence]) -> str | None:
    """Words against the kind: "memory is fine" as a cause, about a check that is critical."""
    if not checks:
        return None
    text = _Text.of(claim.says)

    def says(some: frozenset[str], other: frozenset[str]) -> bool:
        plain = any(word in some and not text.denies(place) for place, word in enumerate(text.words))
        return plain or any(word in other and text.denies(place) for place, word in enumerate(text.words))

    well, ill = says(_WELL, _ILL), says(_ILL, _WELL)
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


def _of_direction(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
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


def _is_statement(quote: str) -> bool:
    words = _content(_Text.of(quote).words)
    return len(words) > 1 or _has_digit(words) or len(quote.split()) > 2


def _has_digit(words: Iterable[str]) -> bool:
    return any(letter.isdigit() for word in words for letter in word)


def _of_statements(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
    """What each clause of a claim says, against the clauses of its evidence that are about the same."""
    del texts
    places = {word for one in cited for each in statements(one.about) for word in each.about}
    known = [each for one in cited for each in _statements_of(one)]
    last: Statement | None = None
    for mine in _of_its_own(claim, cited):
        if not mine.about and last is not None:
            mine = replace(mine, inherited=mine.inherited | last.about, resources=last.resources)
        last = mine if mine.about else last
        if (why := _of_amounts(mine, known, places)) or (why := _of_sense(mine, _closest(mine, known, places))):
            return why
    return None


def _of_its_own(claim: Claim, cited: Sequence[Evidence]) -> list[Statement]:
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


def _statements_of(one: Evidence) -> list[Statement]:
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
    for number in numbers_in(_INSIDE.sub(" ", in_digits(mine.text))):
        having = [other for other in known if any(are_same(number, each) for each in numbers_in(in_digits(other.text)))]
        if having and not any(_is_of(mine, subject, other, elsewhere) for other in having):
            return f"its evidence has {one_line(number.shown, 40)} of something else: {one_line(having[0].text, 80)!r}"
    return None


def _is_of(mine: Statement, subject: Set[str], other: Statement, elsewhere: Set[str]) -> bool:
    if mine.resources and other.resources:
        return bool(mine.resources & other.resources)
    return not other.subject or bool(subject & other.subject) or not subject & elsewhere


def _of_names(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
    """A claim brings in nobody and nothing that its evidence does not have."""
    del texts
    said = " ".join(f"{one.about} {one.topic} {one.kind} {without_orders(one)}" for one in cited)
    known = {word for each in statements(f"{said} {claim.topic}") for word in each.about}
    known |= {"deploy"} if any(one.kind is EvidenceKind.EVENT for one in cited) else set[str]()
    raw = with_spaces(said).casefold()
    own = {word for each in _of_its_own(claim, cited) for word in each.about}
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


def _of_other_checks(claim: Claim, cited: Sequence[Evidence], evidence: Mapping[str, Evidence]) -> str | None:
    """What an alert says of itself is no cause while a check has found the same well."""
    if claim.kind is not ClaimKind.CAUSE or any(one.kind is not EvidenceKind.ALERT for one in cited):
        return None
    wanted = {word for each in statements(claim.says) for word in each.resources if word in CAPACITIES}
    hosts = {_host(one.about) for one in cited}
    for one in evidence.values():
        if one.kind is not EvidenceKind.CHECK or one.status is not CheckStatus.OK or _host(one.about) not in hosts:
            continue
        if wanted and wanted <= {word for each in _statements_of(one) if each.used for word in each.resources}:
            return f"{one.id} says the opposite: {one.status}"
    return None


def _host(place: str) -> str:
    return re.sub(r"^[a-z]+://|:\d+$|/.*$", "", place.casefold())


_INSIDE = re.compile(
    r"[a-z_][\w\-.:/]*\d[\w\-.:/]*|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?"
)
"""Names with digits, and addresses with their ports: no numbers."""
_BETWEEN = re.compile(r"\b[\w-]+ (?:seconds?|minutes?|hours?|days?) (?:before|after|earlier|later|ago)\b")


def _of_numbers(claim: Claim, cited: Sequence[Evidence], texts: Sequence[_Text]) -> str | None:
    says = _Text.of(claim.says).raw
    for one in cited:
        says = says.replace(one.id, " ")
    if any(one.kind in (EvidenceKind.EVENT, EvidenceKind.EPISODE) for one in cited):
        # The time between an event and the incident is the difference of two times, which no evidence names.
        says = _BETWEEN.sub(" ", says)
    says = in_digits(says)
    raw = in_digits(" ".join(text.raw for text in texts))
    for found in _INSIDE.findall(says):
        name = found.strip(".:-/")
        if name not in raw:
            return f"its evidence does not have {one_line(name, 40)}"
    known = list(numbers_in(raw))
    for number in numbers_in(_INSIDE.sub(" ", says)):
        if not any(are_same(number, other) for other in known):
            return f"its evidence does not have the number {one_line(number.shown, 40)}"
    return None
