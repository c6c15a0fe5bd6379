"""Texts as statements: of each clause what it is about, its numbers, and whether it says that something is well or ill.

Pure, and small on purpose: a statement that the rules cannot follow supports nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestration.vocabulary import FREE, FULL, GENERIC, ILL, NEGATIONS, RESOURCE_OF, RESOURCES, WELL, stem

_OUT = re.compile(
    r"\b(?:run|runs|ran|running) out\b"
    r"|\bno (?:space|memory|room|capacity|headroom) (?:is )?(?:left|free)\b"
)
_CUT = re.compile(
    r"(?<=[.!?;\n\])|])\s+|\s*[\[|;\]]\s*|,\s+|\s+(?:and|but|while|whereas|although|though|yet|however)\s+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?;\n])\s+|\s*[\[|;\]]\s*")
_TOKEN = re.compile(r"[^\W_]+(?:[-.:/'][^\W_]+)*|%")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?(?:%|percent|pct)")


@dataclass(frozen=True)
class Statement:
    """One clause of a text."""

    text: str
    words: tuple[str, ...]
    about: frozenset[str]
    """What it is about, in its own words, by their stems."""
    resources: frozenset[str]
    inherited: frozenset[str] = frozenset()
    """What the clauses before it in its sentence are about, if it names nothing itself; and what
    stands before a colon."""
    header: tuple[str, ...] = ()
    """The words before a colon, which hold for what follows."""
    is_name: bool = False
    """Whether it is the name of an alert, and no statement of what is so."""

    @property
    def subject(self) -> frozenset[str]:
        return self.about | self.inherited

    @property
    def denies(self) -> bool:
        return not NEGATIONS.isdisjoint((*self.header, *self.words))

    @property
    def sense(self) -> str:
        """Whether it says that something is "well", "ill", or neither: ""."""
        found: set[str] = set()
        reach = 0
        for word in self.words:
            reach = 5 if word in NEGATIONS else reach - 1
            if word in WELL or word in ILL:
                found.add("well" if (word in WELL) is (reach <= 0) else "ill")
        if _OUT.search(self.text):
            return "ill"
        if not found and self.denies:
            return "ill"
        return found.pop() if len(found) == 1 else ""

    @property
    def says_full(self) -> bool:
        """Whether it says that something is used up."""
        return self.sense == "ill" and (not FULL.isdisjoint(self.words) or _OUT.search(self.text) is not None)

    @property
    def used(self) -> list[float]:
        """The shares in use, in percent, which it names."""
        free = not FREE.isdisjoint(self.words)
        return [100 - float(one) if free else float(one) for one in _PERCENT.findall(self.text)]


def with_spaces(text: str) -> str:
    """A text with names in camel case as words, and quotes and dashes of one kind."""
    return unicodedata.normalize("NFKC", _CAMEL.sub(" ", text)).replace("\u2019", "'").replace("\u2013", "-")


def statements(text: str, *, names_first: bool = False) -> list[Statement]:
    """The clauses of a text. `names_first` says that it begins with the name of an alert."""
    found: list[Statement] = []
    for number, sentence in enumerate(_SENTENCE_END.split(_named_apart(with_spaces(text), names_first=names_first))):
        header, colon, rest = sentence.rpartition(": ")
        begun: frozenset[str] = frozenset(_about(header)) if colon else frozenset()
        last: frozenset[str] = frozenset()
        clauses = [*(_CUT.split(header) if colon else []), *_CUT.split(rest)]
        for clause in filter(None, (each.strip() for each in clauses)):
            one = _statement(clause, is_name=names_first and number == 0)
            inherited = begun if one.about else begun | last
            over = tuple(_TOKEN.findall(header.casefold())) if colon and clause in rest else ()
            found.append(replace(one, inherited=inherited, header=over))
            last = one.about or last
    return found


def _named_apart(text: str, *, names_first: bool) -> str:
    return re.sub(r"(\((?:critical|warning|info|unknown), \w+\))\s", r"\1; ", text, count=1) if names_first else text


def _statement(text: str, *, is_name: bool) -> Statement:
    folded = text.casefold()
    words = tuple(_TOKEN.findall(folded))
    about = frozenset(_about(text))
    return Statement(folded, words, about, frozenset(word for word in about if word in RESOURCES), is_name=is_name)


def _about(text: str) -> Iterator[str]:
    for word in _TOKEN.findall(text.casefold().replace("_", " ")):
        parts = [word] if any(letter.isdigit() for letter in word) else re.split(r"[-./:]", word)
        for part in parts if len(parts) > 1 else [word]:
            if part in RESOURCE_OF and len(parts) == 1:
                yield RESOURCE_OF[part]
            elif part not in GENERIC and len(part) > 1 and not part[0].isdigit():
                yield stem(part)


_BELOW_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_UNITS = {word: number for number, word in enumerate(_BELOW_TWENTY)}
_TIMES_TEN = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * number for number, word in enumerate(_TIMES_TEN, 2)}
_NUMERAL = "|".join([*_TENS, *sorted(_UNITS, key=len, reverse=True)])
_SPELLED = re.compile(rf"\b(?:{_NUMERAL}|hundred)(?:[\s-](?:and\s)?(?:{_NUMERAL}|hundred|thousand))*\b")


def in_digits(text: str) -> str:
    """A text in small letters with numbers in words as digits; "one" alone is no number."""

    def digits(found: re.Match[str]) -> str:
        total = part = 0
        words = [word for word in re.split(r"[\s-]+", found[0]) if word != "and"]
        if words == ["one"]:
            return found[0]
        for word in words:
            if word == "hundred":
                part = max(part, 1) * 100
            elif word == "thousand":
                total, part = total + max(part, 1) * 1000, 0
            else:
                part += _UNITS.get(word, _TENS.get(word, 0))
        return str(total + part)

    return re.sub(r"\bhalf (?=of|the|full|used|its)", "50 % ", _SPELLED.sub(digits, text))
