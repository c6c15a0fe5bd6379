"""The subject of a mail: whether it fires, how bad it is, where, and what stays the same until the end.

The words are those of Nagios, Icinga, Zabbix, Alertmanager, Grafana, CloudWatch, Monit, mdadm, smartd, Proxmox, cron,
unattended-upgrades and the uptime services. A word counts at the beginning, in brackets, after `is`, or at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestration.alert import AlertStatus, Severity
from tasks.ingest.sources.fields import known_severity

_BEGIN_WORDS = (
    "problem firing alert alerting alarm triggered critical crit warning warn unknown error down unreachable offline "
    "failed failure fail failing degraded unhealthy nodata"
)
_END_WORDS = (
    "resolved recovery recovered ok okay up successful success succeeded cleared normal restored passed healthy online "
    "fixed solved"
)
_LEVEL_WORDS = "info information emergency disaster high average major minor"
"""How bad it is; these words say nothing of whether it fires."""

_BEGINS, _ENDS, _LEVELS = (frozenset(words.split()) for words in (_BEGIN_WORDS, _END_WORDS, _LEVEL_WORDS))
_WORDS = "|".join((*_BEGIN_WORDS.split(), *_END_WORDS.split(), *_LEVEL_WORDS.split()))
_CRITICAL = frozenset(("down", "unreachable", "offline", "failed", "failure"))

_REPLY = re.compile(r"^\s*(?:(?:re|aw|antw|sv|vs|fwd?|wg|tr|rv)\s*(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)
_NOTHING_NEW = re.compile(
    r"^\W*(acknowledgement|downtime(?:start|end|cancelled)|flapping(?:start|stop|disabled)|custom|"
    r"updated problem|acknowledged)\b",
    re.IGNORECASE,
)
"""What Nagios, Icinga and Zabbix also send mails about."""

_BRACKET = re.compile(r"^\W*?\[([^\[\]]{1,60})\]\s*[:|–—-]*\s*")
_LEADING = re.compile(
    rf"^[\s*!#>]*(no data|{_WORDS})\b(?:\s+in\s+[\d\w ]{{1,30}}?(?=:))?"
    r"(?:\s*[:|–—]+\s*|\s+-+\s+|\s+(?=(?:service|host)\b)|\s*\*+\s*$|\s*$)",
    re.IGNORECASE,
)
_CAPITALS = re.compile(
    rf"^(?:({'|'.join(_BEGIN_WORDS.upper().split())})|"
    rf"({'|'.join(_END_WORDS.upper().split())})(?!(?i:.*\b(?:{'|'.join(_BEGIN_WORDS.split())})\b)))"
    r"\s+(?!(?i:to|for|with|when|if|until|and|or|but|not|no|as)\b)"
)
"""As in `RECOVERY pump7`. Where something bad is said as well, such a word is no end: `RECOVERY of db-1 failed`."""
_AFTER_IS = re.compile(
    rf"\s+(?:is|are|was|went|now|has|status)(?:\s+(?:now|back|been|again))*:?\s+({_WORDS})\b", re.IGNORECASE
)
_LAST = re.compile(rf"(?:^|[\s:,|(–—-])\(?({_WORDS})\b[\s!.*)\]✅❌🔥🚨]*$", re.IGNORECASE)
_BEFORE_REASON = re.compile(rf":\s[^:]*?\b({_WORDS})\s*:\s", re.IGNORECASE)
"""As in `vzdump backup status (pve): backup failed: no space left`: the reason differs each time."""
_DENIED = re.compile(
    r"\b(?:not|never|no|yet|un|isn't|wasn't|won't|non|cannot|unable|will|until|if|when|before|to be|fail(?:s|ed)? to)\b"
    r"[\w\s-]{0,24}$",
    re.IGNORECASE,
)
"""Before a word, in the last few words: then it does not say what is. A page too many is better than one too few."""
_ENDING_BRACKET = re.compile(
    rf"\W*(?:{'|'.join(_END_WORDS.split())})(?:\s*[\W\d]*$|\s*[:,#({{\d]|\s+(?:on|in|after|by)\b)", re.IGNORECASE
)

_WORD = re.compile(r"[^\W\d_]+")
_HOSTS = (
    re.compile(r"\bCron <[^\s@<>]{1,64}@([^\s<>]{1,253})>"),
    re.compile(r"\bevent on \S{1,100}?:([\w.-]{1,253})$"),
    re.compile(r"\bon host:? ([\w.-]{1,253})"),
    re.compile(r"\bresult for '?([\w.-]{1,253}?)'?(?::|$)"),
    re.compile(r"\bservice alert: ([\w.-]{1,253})/", re.IGNORECASE),
    re.compile(r"\bhost alert: ([\w.-]{1,253})", re.IGNORECASE),
    re.compile(r"\bstatus \(([\w.-]{1,253})\)"),
    re.compile(r"\bon ((?=[\w.-]*[\d.-])[\w.-]{2,253})$"),
)

_MEASURED = re.compile(
    r"(?<![\w./:@-])[<>=~≈]*[+-]?\d+(?:[.,:]\d+)*\s?(?:%|°\s?[CF]|"
    r"(?:[kKMGTP]i?B|[kKMG]?bps|[kMG]?Hz|ms|µs|s|sec|secs|seconds?|m|min|mins|minutes?|h|hrs?|hours?|d|days?|weeks?|"
    r"V|W|A|rpm|times?|errors?|warnings?|messages?|mails?|e-?mails?|processes|users?|updates?|packages?|failures?|"
    r"alerts?|requests?|connections?|items?|files?|events?)\b)(?!\w)"
    r"|(?<![\w./:@-])\d+[.,]\d+(?![\w./:])"
    r"|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d\d:\d\d(?::\d\d)?\b"
    r"|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\w*,? \d{1,2} \w{3,9} \d{4}\b"
)
"""Values, durations, counts and moments. A bare number stays: it is a port, a disk or the number of a job."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a subject says."""

    name: str
    """Without replies and words for the state; "" if nothing is left."""
    identity: str
    """What mails about one alert have in common."""
    status: AlertStatus
    severity: Severity | None
    host: str
    ignored: str = ""
    """Why the mail says nothing about the state of an alert; "" if it does."""


def read_subject(written: str) -> Subject:
    """The parts of a subject."""
    subject = _REPLY.sub("", written[:512]).strip()
    rest, words = _without_leading(subject)
    nothing_new = _NOTHING_NEW.match(subject) or _NOTHING_NEW.match(rest)
    name, identity, later = _without_later(rest)
    words += later
    ended = next((word in _ENDS for word in words if word in _BEGINS | _ENDS), False)
    return Subject(
        name=name or subject.strip(" *"),
        identity=" ".join(_MEASURED.sub("N", identity).casefold().split()),
        status=AlertStatus.RESOLVED if ended else AlertStatus.FIRING,
        severity=None if ended else _severity(words),
        host=next((found[1] for each in _HOSTS if (found := each.search(rest) or each.search(name))), ""),
        ignored=f"mail: {nothing_new[1].lower()}" if nothing_new else "",
    )


def _without_leading(subject: str) -> tuple[str, list[str]]:
    """The subject without the words for a state at its beginning, and these words in lower case."""
    words: list[str] = []
    kept: list[str] = []
    rest = subject
    while rest:
        if bracket := _BRACKET.match(rest):
            inside = [word.lower() for word in _WORD.findall(bracket[1])]
            known = [word for word in inside if word in _BEGINS | _ENDS | _LEVELS]
            if not _BEGINS.intersection(known) and not _ENDING_BRACKET.match(bracket[1]):
                known = [word for word in known if word not in _ENDS]  # as in `[OK to ignore]`
            words += known
            kept += [] if known else [bracket[0].strip()]
            rest = rest[bracket.end() :]
        elif leading := _LEADING.match(rest) or _CAPITALS.match(rest):
            words.append((leading[1] or leading[2]).lower().replace(" ", ""))
            rest = rest[leading.end() :]
        else:
            break
    return " ".join((*kept, rest)).strip(), words


def _without_later(rest: str) -> tuple[str, str, list[str]]:
    """The name, the identity, and the words for a state that stand later in a subject."""
    words: list[str] = []
    if (reason := _BEFORE_REASON.search(rest)) and not _DENIED.search(rest[: reason.start(1)]):
        before = rest[: reason.start(1)].strip(" :*")
        return rest.strip(" *"), before, [reason[1].lower()]
    name = rest
    for pattern in (_AFTER_IS, _LAST):
        found = pattern.search(name)
        if found is None or _DENIED.search(name[: found.start(1)]):
            continue
        if found[1] == "up" and pattern is _LAST and found[0].startswith(" "):  # as in `is backing up`
            continue
        words.append(found[1].lower())
        name = f"{name[: found.start()]}{name[found.end() :]}"
    name = name.strip(" *!:-–—|(,.")
    if name.count("(") > name.count(")"):
        name = f"{name})"  # of `HighCPU (db-1 critical)`
    return name, name, words


def _severity(words: list[str]) -> Severity | None:
    """The first word that says how bad it is."""
    for word in words:
        known = known_severity(word) or (Severity.CRITICAL if word in _CRITICAL else None)
        if known is not None and word not in _ENDS:
            return known
    return None
