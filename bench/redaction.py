"""How well redaction tells secrets from what only looks like one, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import JsonValue

from bench.figures import Figures, timed
from bench.redaction_corpus import Harmless, Planted, harmless, planted
from orchestration.redaction import forget_short_texts, redact

ALERT: JsonValue = {
    "status": "firing",
    "labels": {
        "alertname": "HighLatency",
        "severity": "critical",
        "instance": "web-1:9100",
        "job": "api",
        "env": "prod",
    },
    "annotations": {
        "summary": "p99 of checkout is above 2 s",
        "description": "p99 latency of checkout on web-1:9100 is 2.4 s for 10 minutes, see the runbook.\n" * 4,
        "runbook_url": "https://wiki.example.com/runbooks/latency?service=checkout",
    },
    "startsAt": "2026-11-25T22:10:00Z",
    "generatorURL": "http://prom.example.com/graph?g0.expr=histogram_quantile(0.99%2C+rate(x_bucket[5m]))&g0.tab=1",
    "fingerprint": "17b2c3d4e5f60001",
}
"""A typical alert, for its cost."""

_ALERTS = 100
_HOSTILE = (
    *("a", "password=", "a:", "-u ", "token ", "://a:", "eyJaaaa.", "curl ", '\\"', "?a=", "secret: a ", "a=("),
    *(
        "secrets:\n- a-b\n",
        "secrets:\n",
        "tokens: [1, ",
        "secrets: (a-b, ",
        "secret: |\n a-b\n",
        "passwords: 1, ",
        "token: {a ",
    ),
)


def missed(corpus: Iterable[Planted]) -> list[Planted]:
    """The planted secrets that redaction leaves in their texts, at least in part."""
    return [plant for plant in corpus if plant.shows_in(_flat(redact(plant.value)))]


def false_alarms(corpus: Iterable[Harmless]) -> list[Harmless]:
    """The harmless texts that redaction changes."""
    return [text for text in corpus if redact(text.value) != text.value]


def measure_redaction(times: int) -> list[Figures]:
    """Recall and false alarms in percent, for the rules' own part of the corpus and for the part held out."""
    rows: list[Figures] = []
    for part, held_out in (("tuned on", False), ("held out", True)):
        secrets = [plant for plant in planted() if plant.held_out is held_out]
        texts = [text for text in harmless() if text.held_out is held_out]
        recall = 100 * (1 - len(missed(secrets)) / len(secrets))
        alarms = 100 * len(false_alarms(texts)) / len(texts)
        shapes = len({plant.shape for plant in secrets})
        counted = f"{len(secrets)} secrets of {shapes} shapes"
        rows += [
            Figures(what=f"recall, {part}: {counted}", values=[recall], unit="%", target="≥ 98 %"),
            Figures(what=f"false alarms, {part}: {len(texts)} texts", values=[alarms], unit="%", target="≤ 2 %"),
        ]
    alert = [timed(_redact_new_alerts) * 1000 / _ALERTS for _ in range(times)]
    hostile = [timed(lambda text=text: redact((text * 10**6)[: 10**6])) for text in _HOSTILE]
    return [
        *rows,
        Figures(what="redaction of a typical alert, none of it seen before", values=alert, unit="ms"),
        Figures(what="redaction of hostile texts of 10^6 characters", values=hostile, unit="s", target="≤ 0.2 s"),
    ]


def _redact_new_alerts() -> None:
    for _ in range(_ALERTS):
        forget_short_texts()
        redact(ALERT)


def _flat(value: JsonValue) -> str:
    """All texts of a value, without JSON's escapes."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(_flat(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
