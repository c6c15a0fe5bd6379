"""Numbers in a text, in any notation and unit, and whether two of them are one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_GROUPED = re.compile(r"\d{1,3}(?:[,' ]\d{3})+(?:\.\d+)?")


def plain_number(word: str) -> float | None:
    """The value of a word such as 98.0 or 1,048; None if it is no number."""
    if _GROUPED.fullmatch(word):
        return float(re.sub(r"[,' ]", "", word))
    if re.fullmatch(r"\d+(?:[.,]\d+)?", word):
        return float(word.replace(",", "."))
    return None


_SCALES: Mapping[str, tuple[str, float]] = {
    "%": ("ratio", 0.01), "percent": ("ratio", 0.01), "pct": ("ratio", 0.01),
    "b": ("size", 1), "byte": ("size", 1), "bytes": ("size", 1),
    "kb": ("size", 1e3), "mb": ("size", 1e6), "gb": ("size", 1e9), "tb": ("size", 1e12), "pb": ("size", 1e15),
    "kib": ("size", 2**10), "mib": ("size", 2**20), "gib": ("size", 2**30), "tib": ("size", 2**40),
    "ms": ("time", 1e-3), "s": ("time", 1), "sec": ("time", 1), "secs": ("time", 1), "second": ("time", 1),
    "seconds": ("time", 1), "min": ("time", 60), "mins": ("time", 60), "minute": ("time", 60), "minutes": ("time", 60),
    "h": ("time", 3600), "hour": ("time", 3600), "hours": ("time", 3600), "d": ("time", 86400), "day": ("time", 86400),
    "days": ("time", 86400),
    "k": ("count", 1e3), "thousand": ("count", 1e3), "million": ("count", 1e6), "billion": ("count", 1e9),
}  # fmt: skip
"""Units: what they measure, and how much one is. Of bytes both readings count: 1 GB is 10⁹ or 2³⁰."""

_NUMBER = re.compile(
    r"(?:(?<![\w.])(?P<sign>-))?(?<![a-z_.])(?P<number>\d{1,3}(?:[,' ]\d{3})+(?:\.\d+)?(?!\d)|\d+(?:[.,]\d+)?)"
    r"(?P<e>e[+-]?\d{1,3})?(?:\s?(?P<unit>%|[a-z]{1,8})(?!\w))?"
)
_ABOUT = re.compile(
    r"(?:\b(?:about|around|roughly|approximately|nearly|almost|over|more than|under|less than|circa)|[~≈])\s?$"
)
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Number:
    """A number with its unit."""

    shown: str
    value: float
    measures: str
    """What its unit measures; "" without a unit."""
    scale: float
    """How much its unit is, in the base unit of what it measures."""
    about: bool = False
    """Whether it is only said to be about so much."""

    @property
    def digit(self) -> float:
        """How much its last digit is worth."""
        found = re.search(r"\d[.,](\d+)", self.shown)
        return 10.0 ** -(len(found[1]) if found and not _GROUPED.match(self.shown) else 0)

    @property
    def scales(self) -> list[float]:
        """What its unit may mean: of kB, MB and GB also the powers of 1024."""
        power = _POWERS.get(re.sub(r"[^a-z]", "", self.shown)) if self.measures == "size" else None
        return [self.scale] if power is None else [self.scale, 1024.0**power]


_POWERS: Mapping[str, int] = {"kb": 1, "mb": 2, "gb": 3, "tb": 4, "pb": 5}


def numbers_in(text: str) -> Iterator[Number]:
    """The numbers of a text in lower case, with their units."""
    for found in _NUMBER.finditer(text):
        plain = plain_number(found["number"])
        if plain is None:
            continue
        value = float(f"{plain!r}{found['e'] or ''}") * (-1 if found["sign"] else 1)
        measures, scale = _SCALES.get(found["unit"] or "", ("", 1.0))
        about = _ABOUT.search(text[max(found.start() - 20, 0) : found.start()]) is not None
        yield Number(found[0].strip(), value, measures, scale, about)


def are_same(mine: Number, other: Number) -> bool:
    """Whether two numbers are one, as precisely as the claim shows its own."""
    if mine.measures and other.measures and mine.measures != other.measures:
        return False
    pairs = [(mine.value, other.value, mine.digit)] if not (mine.measures and other.measures) else []
    if mine.measures == other.measures != "":
        pairs = [(mine.value * own, other.value * its, mine.digit * own) for own in mine.scales for its in other.scales]
    elif mine.measures == "ratio" or other.measures == "ratio":
        # 95 % of a ratio that is 0.95
        own, its = (mine.scale if mine.measures else 1.0), (other.scale if other.measures else 1.0)
        pairs.append((mine.value * own, other.value * its, mine.digit * own))
    return any(_close(*pair, about=mine.about) for pair in pairs)


def _close(mine: float, other: float, digit: float, *, about: bool) -> bool:
    tolerance = _TOLERANCE * max(abs(mine), abs(other)) if about else 0.0
    return abs(mine - other) <= max(digit / 2 * (1 + 1e-9), tolerance)
