"""Whether an alert has ended: the words that monitoring tools use for it. All sources use this list."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from orchestration.alert import AlertStatus
from tasks.ingest.sources.fields import Fields, first_of, known_severity, one_line_text, text

_END_WORDS = (
    "resolved, resolve, auto resolved, autoresolved, closed, close, auto closed, autoclosed, recovered, recovery, "
    "recover, restored, cleared, clear, all clear, allclear, inactive, deactivated, deactivate, dismissed, "
    "ok, okay, all ok, normal, normalized, normalised, nominal, stable, healthy, good, green, "
    "pass, passed, passing, success, successful, succeeded, fixed, solved, remediated, "
    "up, online, operational, available, reachable, alive, responding, connected, ready, "
    "back, back up, back online, back to normal, returned to normal, return to normal, up again, "
    "no longer firing, not firing"
)
_END_WORDS_OF_OTHERS = (
    "behoben, gelöst, erledigt, wiederhergestellt, geschlossen, entwarnung, erreichbar, "
    "résolu, résolue, rétabli, rétablie, fermé, resuelto, resuelta, recuperado, recuperada, cerrado, "
    "resolvido, resolvida, normalizado, fechado, risolto, risolta, ripristinato, chiuso, "
    "opgelost, hersteld, gesloten, rozwiązany, rozwiązano, vyřešeno, çözüldü, "
    "решено, решена, восстановлено, восстановлен, устранено, норма, закрыто, "
    "已恢复, 恢复, 恢复正常, 已解决, 正常, 已关闭, 復旧, 復旧済み, 回復, 解決, 解決済み, 복구, 복구됨, 해결됨, 정상"
)
"""The same in the languages in which operators write templates."""
_ENDS = frozenset((*_END_WORDS.split(", "), *_END_WORDS_OF_OTHERS.split(", ")))
"""Words for an end, as `_words_of` writes them.

A word that can also be said of something broken is not in the list: `completed` and `running` (of a job), `paused`,
`expired`, `mitigated`, `unknown`. A page too many is noticed, a page too few is not.
"""
_BEGIN_WORDS = (
    "firing, fire, fired, fires, alert, alerting, alarm, alarming, alarmed, trigger, triggered, problem, incident, "
    "outage, active, activated, activate, open, opened, reopened, new, raised, raise, set, started, begin, began, "
    "detected, breached, breach, exceeded, violated, violation, abnormal, anomaly, down, offline, unreachable, "
    "unavailable, unhealthy, inoperative, dead, lost, disconnected, stopped, crashed, crash, hung, stalled, failed, "
    "failing, failure, fail, fails, error, errored, errors, err, exception, broken, bad, red, yellow, amber, orange, "
    "degraded, impaired, critical, crit, warning, warn, major, minor, severe, fatal, emergency, disaster, urgent, "
    "high, low, unknown, nodata, pending, acknowledged, ack, acked, missing, late, overdue, expired, timeout, "
    "timedout, rejected, refused, unusual, unstable, flapping, not, no"
)
_BEGINS = frozenset(_BEGIN_WORDS.split(", "))
"""Words that say that something is wrong, or may be. One of them in a status is enough for it to be understood."""
_IS = "(?:(?:is|are|has|have|been|now|back) )*"
_OVER = "resolved|auto resolved|closed|cleared|recovered|fixed|solved|inactive|deactivated|ok|normal"
_WELL = (
    "up|ok|okay|online|operational|available|reachable|alive|responding|healthy|normal|good|green|stable|recovered|"
    "restored|passed|passing|fixed|back|to normal|returned to normal"
)
_ENDING_PHRASE = re.compile(
    # PRTG: `Down ended (now: Up)`
    r"(?:\w+ )?ended now (?:up|ok)|(?:is )?(?:now )?(?:back )?(?:up|ok|online|normal)(?: again)?"
    # A problem that is over, and a thing that is well. The other way round it may be an outage: `Service inactive`.
    rf"|(?:the )?(?:problem|issue|incident|alert|alarm|trigger|condition) {_IS}(?:{_OVER})(?: again| now)?"
    rf"|(?:the |all )?(?:service|host|node|server|site|website|monitor|check|system|everything)s? {_IS}(?:{_WELL})"
    r"(?: again| now)?"
    # How it ended, or what was before: `Resolved by timeout`, `Recovered after 5 min`, `OK (was CRITICAL)`
    r"|(?:resolved|closed|cleared|recovered|fixed|solved|restored) (?:by \w|(?:in|after) \d).*"
    r"|(?:resolved|closed|cleared|recovered|ok|up|normal|green|healthy|online) was \w.*"
    r"|(?:\w+ )?from \w+ to (?:ok|up|normal|green|healthy|online|resolved|cleared)"
)
"""Phrases for an end, as `_words_of` writes them."""
_ARROW = re.compile("-+>|=+>|[→⇒➜➡]")
"""Between what was and what is: `CRITICAL -> OK`."""
_NAMED_STATE = re.compile("(?:alert |current |new )?(?:status|state) (?:is )?(?:now )?")
_ENDING_SIGNS = frozenset("✅☑✔🟢🆗👍💚🟩")
_DECORATION = frozenset("\ufe0e\ufe0f\u200d ")
_NO_WORD = re.compile(r"[\W_]+")
_LONGEST = 64
"""A longer text is a sentence, not a status."""

_END_SEVERITIES = frozenset(("ok", "clear", "cleared", "recovered", "resolved"))
"""Severities of senders without a status (Alerta, Kapacitor, Netdata). `normal` is also a priority, so no end."""

_RESOLVED_FLAGS = ("resolved", "is_resolved", "isResolved", "recovered", "is_recovered", "cleared", "closed")
_FIRING_FLAGS = ("firing", "is_firing", "isFiring", "alerting", "is_alerting")
_GOOD_FLAGS = (
    *("ok", "is_ok", "up", "is_up", "isUp", "healthy", "is_healthy", "online", "is_online", "alive", "is_alive"),
    *("success", "successful", "succeeded", "passed", "passing", "available"),
)
_BAD_FLAGS = ("active", "is_active", "isActive", "down", "is_down", "isDown", "failed", "failing", "alarm")
_FLAGS = frozenset((*_RESOLVED_FLAGS, *_FIRING_FLAGS, *_GOOD_FLAGS, *_BAD_FLAGS))
_EVENT_ENDS = frozenset(("up", "ok", "online", "resolved", "recovered", "recovery", "closed", "cleared", "fixed"))
_EVENT_BEGINS = frozenset(("down", "offline", "firing", "triggered", "problem", "opened", "reopened", "alerting"))
_ENDED_AT = ("resolved_at", "resolvedAt", "recovered_at", "recoveredAt", "cleared_at", "closed_at", "closedAt")
_DOUBTS = frozenset(("not", "no", "never", "partially", "partly", "almost", "nearly"))
STATE_FIELDS = (*sorted(_FLAGS), *_ENDED_AT)
"""The fields, other than words, that say whether an alert fires."""
_EVENT_FIELDS = ("notification_type", "event", "event_type", "trigger", "type", "action")
"""Fields whose last word may say what happened, as in `{"event": "monitor.up"}`. Only few words count there."""
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def status_of(*values: JsonValue) -> AlertStatus:
    """The status of the first value that says something. A word that is not clearly an end means firing.

    Case, spaces, punctuation and emoji do not matter: `✅ Up`, `[OK]` and `auto-resolved` are ends.
    """
    said = next((word for value in values if (word := text(first_of(value)).strip())), "")
    return AlertStatus.RESOLVED if _is_end(said) else AlertStatus.FIRING


def is_known_status(value: JsonValue) -> bool:
    """Whether a value says whether an alert fires in words that are known. A number, or an empty text, is no word."""
    said = text(first_of(value)).strip()
    if not any(character.isalpha() for character in said):
        return True
    known = _is_end(said) or _truth(said) is not None or known_severity(said) is not None
    return known or not _BEGINS.isdisjoint(_words_of(said[:_LONGEST]).split())


def unknown_status(said: JsonValue) -> Iterator[str]:
    """A sentence about a status, if no source knows its word."""
    if not is_known_status(said):
        yield f"the status {one_line_text(said, 60)!r} is not a known word: it counts as firing"


def unknown_severity(said: Iterable[JsonValue]) -> Iterator[str]:
    """A sentence about these severities, if no source knows any of their words."""
    words = [word for value in said if (word := one_line_text(value, 60))]
    if words and known_severity(*words) is None:
        yield f"the severity {words[0]!r} is not a known word: it counts as warning"


def _is_end(said: str) -> bool:
    if not said or len(said) > _LONGEST or said.startswith(("!", "¬", "{")):
        return False
    words = _words_of(_ARROW.split(said)[-1])
    words = words.removeprefix(named[0]) if (named := _NAMED_STATE.match(words)) else words
    if words:
        return words in _ENDS or _ENDING_PHRASE.fullmatch(words) is not None
    signs = set(said) - _DECORATION
    return bool(signs) and signs <= _ENDING_SIGNS


def _words_of(said: str) -> str:
    """The words in lower case with one space between them."""
    return " ".join(_NO_WORD.sub(" ", unicodedata.normalize("NFKC", said).casefold()).split())


def status_in(own: Fields, shared: Fields, names: tuple[str, ...], severities: tuple[str, ...]) -> AlertStatus:
    """The status of an alert whose sender has no documented format: from its flags, its words or its severity.

    Args:
        own: the fields of the alert alone.
        shared: the same, and after them the fields beside a list of alerts.
        names: the fields with a word for the status.
        severities: the fields with a word for the severity, which decides if no other field says anything.
    """
    if _flag(shared, _FIRING_FLAGS) is True:
        return AlertStatus.FIRING
    if _flag(shared, _RESOLVED_FLAGS) is True or _flag(shared, _FIRING_FLAGS) is False:
        return AlertStatus.RESOLVED
    said = shared.pick(*names)
    if said is not None:
        return status_of(said)
    # `{"ok": true, "alerts": […]}` says that the request is fine: such a field counts in the alert itself only.
    if _flag(own, _RESOLVED_FLAGS) is False or _flag(own, _GOOD_FLAGS) is False or _flag(own, _BAD_FLAGS) is True:
        return AlertStatus.FIRING
    if _flag(own, _GOOD_FLAGS) is True or _flag(own, _BAD_FLAGS) is False:
        return AlertStatus.RESOLVED
    if own.moment(*_ENDED_AT) is not None:
        return AlertStatus.RESOLVED
    happened = next(filter(None, (_what_happened(own.pick(name)) for name in own.present(_EVENT_FIELDS))), "")
    if happened:
        return AlertStatus.RESOLVED if happened in _EVENT_ENDS else AlertStatus.FIRING
    severity = _words_of(own.line(*severities)[:_LONGEST])
    return AlertStatus.RESOLVED if severity in _END_SEVERITIES else AlertStatus.FIRING


def is_state(name: str, value: JsonValue) -> bool:
    """Whether this field of a sender without a documented format says whether an alert fires."""
    return (name in _FLAGS and _truth(value) is not None) or (name in _EVENT_FIELDS and _what_happened(value) != "")


def _what_happened(value: JsonValue) -> str:
    """The last word of an event such as `uptime.down`, if it is one that begins or ends an alert; else ""."""
    said = text(value)
    words = _words_of(said).split() if len(said) <= _LONGEST else []
    if not words or _DOUBTS.intersection(words):
        return ""
    return words[-1] if words[-1] in _EVENT_ENDS or words[-1] in _EVENT_BEGINS else ""


def _truth(value: JsonValue) -> bool | None:
    return _TRUTH.get(text(value).strip().casefold())


def _flag(fields: Fields, names: tuple[str, ...]) -> bool | None:
    """The first of these fields that is true or false, as JSON or as text; None if none is. A count is no flag."""
    for name in fields.present(names):
        if (truth := _truth(fields.pick(name))) is not None:
            return truth
    return None
