"""The rules by which a claim's own words, quotes and numbers have to be in its evidence. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestration.contracts import Claim, Evidence, EvidenceKind
from orchestration.quantities import are_same, numbers_in, plain_number
from orchestration.redaction import one_line
from orchestration.statements import in_digits, with_spaces
from orchestration.vocabulary import COMMON, NEGATIONS, stem

_DASHES = str.maketrans({"\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_WORD = re.compile(r"[^\W_]+(?:[.,'](?=\w)[^\W_]+)*|%|[.!?;]")
_ENDS = frozenset(".!?;")
_NEGATION_REACH = 3
"""How many words after a negation it still denies."""


@dataclass(frozen=True)
class Text:
    """A text as words, in which quotes are searched."""

    words: tuple[str, ...]
    raw: str
    ends: frozenset[int]
    """The words before which a sentence ends."""

    @classmethod
    def of(cls, text: str) -> Text:
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
        return not NEGATIONS.isdisjoint(self.words[max(start - _NEGATION_REACH, begins) : start])


def _plain_word(word: str) -> str:
    """A number in one notation: 98.0, 98 and 98,0 are the same word."""
    number = plain_number(word)
    return word if number is None else f"{number:g}"


def _content(words: Sequence[str]) -> set[str]:
    """The words that say what a text is about, without their endings."""
    return {stem(word) for word in words if (len(word) > 2 and word not in COMMON) or word[:1].isdigit()}


def of_quotes(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    """What a claim quotes stands in its evidence, and is not denied there."""
    del cited
    own = Text.of(claim.says)
    for quote in claim.quotes:
        for part in re.split(r"\u2026|\.\.\.|\[\s*\]", quote):
            words = Text.of(part).words
            if not words:
                continue
            found = [(text, place) for text in texts for place in text.places(words)]
            if not found:
                return f"its evidence does not say {one_line(quote, 80)!r}"
            if not NEGATIONS.isdisjoint(words):
                continue
            denied = all(text.denies(place) for text, place in found)
            affirmed = not any(text.denies(place) for text, place in found)
            mine = [own.denies(place) for place in own.places(words)]
            if (denied and not (mine and all(mine))) or (affirmed and mine and all(mine)):
                return f"its evidence says the opposite of {one_line(quote, 80)!r}"
    return None


def of_words(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    """A claim shares words with its evidence, or else the evidence cannot contain what it says."""
    known = _content([word for text in texts for word in text.words])
    known |= {word for one in cited for word in (stem(one.topic.casefold()), one.kind.value) if word}
    own = _content(Text.of(claim.says).words)
    # One word is no statement, and everything can be quoted with it.
    quoted = [quote for quote in claim.quotes if _is_statement(quote)]
    if own and not (own & known):
        return "its evidence says nothing of what it says"
    if not quoted and len(own & known) < min(2, len(own)):
        return "it quotes nothing, and its evidence hardly speaks of what it says"
    return None


def _is_statement(quote: str) -> bool:
    words = _content(Text.of(quote).words)
    return len(words) > 1 or _has_digit(words) or len(quote.split()) > 2


def _has_digit(words: Iterable[str]) -> bool:
    return any(letter.isdigit() for word in words for letter in word)


NAMES_WITH_DIGITS = re.compile(
    r"[a-z_][\w\-.:/]*\d[\w\-.:/]*|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?"
)
"""Names with digits, and addresses with their ports: no numbers."""
_BETWEEN = re.compile(r"\b[\w-]+ (?:seconds?|minutes?|hours?|days?) (?:before|after|earlier|later|ago)\b")


def of_numbers(claim: Claim, cited: Sequence[Evidence], texts: Sequence[Text]) -> str | None:
    """Each number and each name with digits of a claim stands in its evidence, in whatever notation."""
    says = Text.of(claim.says).raw
    for one in cited:
        says = says.replace(one.id, " ")
    if any(one.kind in (EvidenceKind.EVENT, EvidenceKind.EPISODE) for one in cited):
        # The time between an event and the incident is the difference of two times, which no evidence names.
        says = _BETWEEN.sub(" ", says)
    says = in_digits(says)
    raw = in_digits(" ".join(text.raw for text in texts))
    for found in NAMES_WITH_DIGITS.findall(says):
        name = found.strip(".:-/")
        if name not in raw:
            return f"its evidence does not have {one_line(name, 40)}"
    known = list(numbers_in(raw))
    for number in numbers_in(NAMES_WITH_DIGITS.sub(" ", says)):
        if not any(are_same(number, other) for other in known):
            return f"its evidence does not have the number {one_line(number.shown, 40)}"
    return None
