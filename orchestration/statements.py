"""Texts as statements: of each clause what it is about, its numbers, and whether it says that something is well or ill.

Pure, and small on purpose: a statement that the rules cannot follow supports nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RESOURCES: Mapping[str, frozenset[str]] = {
    "memory": _words("memory ram mem oom heap memavailable memfree"),
    "swap": _words("swap swapping"),
    "cpu": _words("cpu cpus processor processors core cores load load1 load5 load15"),
    "disk": _words("disk disks filesystem filesystems storage volume volumes partition partitions mountpoint fs"),
    "inode": _words("inode inodes"),
    "network": _words("network packet packets interface link bandwidth"),
    "latency": _words("latency latencies p50 p90 p95 p99 duration"),
    "certificate": _words("certificate certificates cert certs tls ssl"),
    "dns": _words("dns nameserver resolver nxdomain servfail enotfound"),
    "connection": _words("connection connections pool clients"),
    "queue": _words("queue queues backlog lag"),
    "error": _words("error errors 5xx 4xx"),
    "deploy": _words(
        "deploy deploys deployed deployment deployments release released releases rollout rolled change changes changed"
    ),
}
"""What measurements are of, with other words for each."""

_RESOURCE_OF = {word: name for name, some in _RESOURCES.items() for word in some}
CAPACITIES = frozenset({"memory", "swap", "cpu", "disk", "inode", "connection"})
"""What can be full."""

_NEGATIONS = _words(
    "not no never none without cannot nor neither nothing nobody nicht kein keine hardly isn't aren't wasn't weren't"
    " doesn't don't didn't hasn't haven't hadn't won't can't couldn't wouldn't shouldn't rarely nowhere unable"
)
_WELL = _words(
    "fine healthy normal ok okay harmless good stable idle recovered reachable responsive responding answering"
    " successful succeeded valid enough plenty well unaffected ample"
)
_FULL = _words(
    "full exhausted overloaded saturated short overcommitted pegged maxed starved overwhelmed depleted overloading"
    " filled overused high low"
)
_ILL = _FULL | _words(
    "fail failing failed fails failure failures down critical broken unreachable crashed crashes crash unhealthy"
    " leaking leaks stuck dead expired expires invalid unavailable refused refuses error errors corrupted corrupt lost"
    " missing stopped timeout timeouts nxdomain servfail enotfound econnrefused etimedout degraded overflowing killed"
    " lacks lack fill fills behind"
)
_OUT = re.compile(
    r"\b(?:run|runs|ran|running) out\b"
    r"|\bno (?:space|memory|room|capacity|headroom) (?:is )?(?:left|free)\b"
)
_FREE = _words("free idle available left remaining unused headroom")
_CUT = re.compile(
    r"(?<=[.!?;\n\])|])\s+|\s*[\[|;\]]\s*|,\s+|\s+(?:and|but|while|whereas|although|though|yet|however)\s+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?;\n])\s+|\s*[\[|;\]]\s*")
_TOKEN = re.compile(r"[^\W_]+(?:[-.:/'][^\W_]+)*|%")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?(?:%|percent|pct)")

GENERIC = _words(
    "used uses use using usage utilization utilisation utilized percent pct full free busy idle available left"
    " remaining high low above below over under limit normally normal now currently current about total value rate"
    " level only already just still nearly almost more less than most least many much few some all every each at is"
    " are was were be been being has have had does do did done can could will would may might must should the a an and"
    " or but of on in to for from by with without as it its this that these those there here they them their which"
    " what when where while since until before after during because due so too very not no never none ago minute"
    " minutes hour hours second seconds day days week month ms min sec bytes byte kb mb gb tb kib mib gib tib per then"
    " also again once between within up out off down into back long longer one two three four five six seven eight"
    " nine ten twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million half first last next"
    " critical warning info firing resolved ok host hosts alert alerts check checks evidence shows show says said"
    " likely probably probable cause causes caused problem issue system seen nothing else whose whom how nobody"
    " trouble wrong rise rises rose rising risen grow grows grew growing fall falls fell falling increase increases"
    " increased increasing decrease decreased drop drops dropped jump jumps jumped spike spikes spiked climb climbs"
    " climbed slow slower fast unusual usual higher lower big large small new old bad good start starts started began"
    " begin stop stops stopped end ends ended run runs ran running work works need needs reach reaches reached exceed"
    " exceeds exceeded cross hit hits got gets get goes went gone become becomes became remain remains stay stays"
    " shown fill fills filled filling fail fails failed failing broke break breaks broken answer answers answered wait"
    " waits waited exist exists find finds found happen happens happened came come comes rest sees behind able fine"
    " healthy wasn't exhausted overloaded saturated short dead stuck unreachable unavailable crashed crashes crash"
    " working set preceded following followed active ready other another same both enough plenty space amount times"
    " time well utc made make makes something depends depend name names resolve reachable target targets november"
    " december january february march april june july august september october queries instead around roughly"
    " approximately circa io api http https url id os"
)
"""Words that say nothing of what a statement is about."""


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
        return not _NEGATIONS.isdisjoint((*self.header, *self.words))

    @property
    def sense(self) -> str:
        """Whether it says that something is "well", "ill", or neither: ""."""
        found: set[str] = set()
        reach = 0
        for word in self.words:
            reach = 5 if word in _NEGATIONS else reach - 1
            if word in _WELL or word in _ILL:
                found.add("well" if (word in _WELL) is (reach <= 0) else "ill")
        if _OUT.search(self.text):
            return "ill"
        if not found and self.denies:
            return "ill"
        return found.pop() if len(found) == 1 else ""

    @property
    def says_full(self) -> bool:
        """Whether it says that something is used up."""
        return self.sense == "ill" and (not _FULL.isdisjoint(self.words) or _OUT.search(self.text) is not None)

    @property
    def used(self) -> list[float]:
        """The shares in use, in percent, which it names."""
        free = not _FREE.isdisjoint(self.words)
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
    return Statement(folded, words, about, frozenset(word for word in about if word in _RESOURCES), is_name=is_name)


def _about(text: str) -> Iterator[str]:
    for word in _TOKEN.findall(text.casefold().replace("_", " ")):
        parts = [word] if any(letter.isdigit() for letter in word) else re.split(r"[-./:]", word)
        for part in parts if len(parts) > 1 else [word]:
            if part in _RESOURCE_OF and len(parts) == 1:
                yield _RESOURCE_OF[part]
            elif part not in GENERIC and len(part) > 1 and not part[0].isdigit():
                yield stem(part)


def stem(word: str) -> str:
    """A word without its ending."""
    if any(letter.isdigit() for letter in word):
        return word
    for ending in ("ings", "ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word


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
