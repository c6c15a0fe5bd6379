"""What an alert's expression measures, and its limit: `cpu > 90` is the value `cpu` with the limit `> 90`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import promql_parser

from orchestration.alert import Alert

MAX_CHARACTERS = 2_000
"""The longest expression that is taken apart: the parser is recursive, and an alert can nest one without end."""

_COMPARISONS = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}
"""The comparisons, and what they are when both sides are swapped."""

_IN_LINKS = ("g0.expr", "expr", "query")
_LABEL = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True)
class Condition:
    """An expression, taken apart."""

    value: str
    """The expression of what is measured."""
    operator: str = ""
    """How the value is compared when the alert fires; "" if it is not."""
    limit: float | None = None
    """What it is compared with, if that is a number."""
    limit_expression: str = ""
    """What it is compared with otherwise."""

    def holds(self, value: float, limit: float) -> bool:
        """Whether the alert fires at this value."""
        return {
            ">": value > limit,
            ">=": value >= limit,
            "<": value < limit,
            "<=": value <= limit,
            "==": value == limit,
            "!=": value != limit,
        }[self.operator]


def expression_of(alert: Alert) -> str:
    """The expression that the alert's links name: Prometheus's `g0.expr`, or that of a page of Grafana; "" if none."""
    for url in (alert.links.get("source", ""), *alert.links.values()):
        for text in _parameters(url):
            if text.strip():
                return text.strip()
    return ""


def _parameters(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        # The pages of VictoriaMetrics and of Prometheus's new UI have their parameters behind a #.
        given = [*parse_qs(parts.query).items(), *parse_qs(parts.fragment.partition("?")[2]).items()]
    except ValueError:
        return
    values = dict(given)
    for name in _IN_LINKS:
        yield from values.get(name, ())
    for name in ("panes", "left"):
        for text in values.get(name, ()):
            yield from _in_json(text)


def _in_json(text: str) -> Iterator[str]:
    """The expressions in the state of a page of Grafana's Explore."""
    try:
        waiting: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
            if isinstance(found.get("expr"), str):
                yield found["expr"]
            waiting += found.values()
        elif isinstance(value, list):
            waiting += cast("list[Any]", value)


def condition_of(expression: str) -> Condition:
    """Take an expression apart. What cannot be read, or compares nothing, is a value without a limit."""
    all_of_it = Condition(expression)
    if len(expression) > MAX_CHARACTERS:
        return all_of_it
    try:
        tree = promql_parser.parse(expression)
        return _condition(tree) or all_of_it
    except (ValueError, RecursionError):
        return all_of_it


def _condition(tree: Any) -> Condition | None:
    tree = _bare(tree)
    if not isinstance(tree, promql_parser.BinaryExpr):
        return None
    operator = str(tree.op)
    if operator in ("and", "or", "unless"):
        return _condition(tree.lhs)
    if operator not in _COMPARISONS:
        return None
    left, right = _number(tree.lhs), _number(tree.rhs)
    if right is not None:
        return Condition(str(_bare(tree.lhs)), operator, right)
    if left is not None:
        return Condition(str(_bare(tree.rhs)), _COMPARISONS[operator], left)
    return Condition(str(_bare(tree.lhs)), operator, None, str(_bare(tree.rhs)))


def _bare(tree: Any) -> Any:
    while isinstance(tree, promql_parser.ParenExpr):
        tree = tree.expr
    return tree


def _number(tree: Any) -> float | None:
    """The value of an expression of numbers, such as `2 * 1024 ^ 3`; None if it is none."""
    tree = _bare(tree)
    if isinstance(tree, promql_parser.NumberLiteral):
        return float(tree.val)
    if isinstance(tree, promql_parser.UnaryExpr):
        inner = _number(tree.expr)
        return None if inner is None else -inner
    if not isinstance(tree, promql_parser.BinaryExpr):
        return None
    left, right = _number(tree.lhs), _number(tree.rhs)
    if left is None or right is None:
        return None
    try:
        return {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "/": lambda: left / right,
            "^": lambda: float(left**right),
        }[str(tree.op)]()
    except (KeyError, ArithmeticError, TypeError):
        return None


def only_with(expression: str, labels: Mapping[str, str]) -> str:
    """The expression, of which only the series with these labels are left."""
    known = {name: value for name, value in labels.items() if _LABEL.fullmatch(name) and name != "__name__"}
    if not known:
        return expression
    wanted = "vector(1)"
    for name, value in known.items():
        replacement = json.dumps(value.replace("$", "$$"), ensure_ascii=False)
        wanted = f'label_replace({wanted}, "{name}", {replacement}, "", "")'
    return f"({expression}) and on ({', '.join(known)}) {wanted}"


def host_pattern(host: str) -> str:
    """A text in quotes for `instance=~`: the host with any port, a short name with any domain."""
    shown = rf"\[{re.escape(host)}\]" if ":" in host else re.escape(host)
    domain = "" if "." in host or ":" in host else r"(\.[^:]*)?"
    return json.dumps(rf"(?i){shown}{domain}(:[0-9]+)?", ensure_ascii=False)
