"""Matchers of labels, with Alertmanager's meaning: `severity="critical"`, `team!=web`, `instance=~"db-.*"`, `job!~x`.

A label that is missing has the value "". A pattern matches the value from its start to its end. Both syntaxes of
Alertmanager are read: the classic one, and the one since 0.27, in which a label's name may be any text in quotes.
Where a text has a meaning in both, the classic one counts, as in Alertmanager.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestration.policy.patterns import BadPattern, check_pattern, matches_all
from orchestration.redaction import shown

MAX_TEXT = 8_192
"""Characters of a text with matchers."""


class BadMatcher(ValueError):
    """A text that is no matcher. The message says why."""


class Operator(StrEnum):
    """How a matcher compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "=~"
    NOT_MATCHES = "!~"


@dataclass(frozen=True)
class Matcher:
    """One condition on one label.

    Raises:
        BadMatcher: its pattern is no regular expression.
    """

    label: str
    operator: Operator
    value: str

    def __post_init__(self) -> None:
        if self.operator in (Operator.MATCHES, Operator.NOT_MATCHES):
            try:
                check_pattern(self.value)
            except BadPattern as error:
                raise BadMatcher(f"the pattern {shown(self.value)} of the label {shown(self.label)} {error}") from None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet the condition."""
        value = labels.get(self.label, "")
        match self.operator:
            case Operator.EQUAL:
                return value == self.value
            case Operator.NOT_EQUAL:
                return value != self.value
            case Operator.MATCHES:
                return matches_all(self.value, value)
            case Operator.NOT_MATCHES:
                return not matches_all(self.value, value)

    def __str__(self) -> str:
        label = self.label if _CLASSIC_LABEL.fullmatch(self.label) else _quoted(self.label)
        return f"{label}{self.operator}{_quoted(self.value)}"


_CLASSIC_LABEL = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SPACE = " \t\n\f\r"
_CLASSIC = re.compile(
    rf"[{_SPACE}]*([a-zA-Z_:][a-zA-Z0-9_:]*)[{_SPACE}]*(=~|=|!=|!~)[{_SPACE}]*(.*?)[{_SPACE}]*", re.DOTALL
)


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """The matchers in a text, such as `team="db", env!=test` or `{"service.name"=~"web-.*"}`.

    Raises:
        BadMatcher: it is none, or one of its patterns is no regular expression.
    """
    if len(text) > MAX_TEXT:
        raise BadMatcher(f"the text has {len(text):,} characters: matchers have at most {MAX_TEXT:,}")
    try:
        return tuple(_classic_matcher(token) for token in _classic_tokens(text))
    except BadMatcher as classic:
        try:
            return tuple(_Reader(text).matchers())
        except BadMatcher as error:
            # A quoted name exists only in the newer syntax; what that syntax says of it is the better help.
            raise (error if text.lstrip(_SPACE + "{").startswith('"') else classic) from None


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether labels meet every one of these conditions."""
    return all(matcher.matches(labels) for matcher in matchers)


_MOST_COMPARED = 100
"""Conditions that are compared with each other."""


def contradiction(matchers: Sequence[Matcher]) -> tuple[Matcher, Matcher] | None:
    """Two conditions that no labels meet together, as far as that can be seen: one allows only values that the other
    one does not. None means that none were seen."""
    for one in matchers[:_MOST_COMPARED]:
        if (values := _only_values(one)) is None:
            continue
        for other in matchers[:_MOST_COMPARED]:
            same = other is not one and other.label == one.label
            if same and not any(other.matches({one.label: value}) for value in values):
                return one, other
    return None


_ALTERNATIVES = re.compile(r"[\w |:/-]+")


def _only_values(matcher: Matcher) -> list[str] | None:
    """The only values that a label may have by this condition. None means that they are not known."""
    if matcher.operator is Operator.EQUAL:
        return [matcher.value]
    if matcher.operator is Operator.MATCHES and _ALTERNATIVES.fullmatch(matcher.value):
        return matcher.value.split("|")
    return None


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _classic_tokens(text: str) -> list[str]:
    """The text cut at its commas that are not in quotes."""
    tokens, token = list[str](), list[str]()
    in_quotes = escaped = False
    for character in text.removeprefix("{").removesuffix("}"):
        if character == ",":  # it does not end an escape: Alertmanager does the same
            if not in_quotes:
                tokens.append("".join(token))
                token.clear()
                continue
        else:
            if character == '"' and not escaped:
                in_quotes = not in_quotes
            escaped = character == "\\" and not escaped
        token.append(character)
    last = "".join(token)
    return [*tokens, last] if last.strip() else tokens


def _classic_matcher(token: str) -> Matcher:
    found = _CLASSIC.fullmatch(token)
    if found is None:
        raise BadMatcher(
            f'expected a label, one of = != =~ !~, and a value, such as severity="critical"; got {shown(token)}'
        )
    return Matcher(found[1], Operator(found[2]), _classic_value(found[3]))


def _classic_value(raw: str) -> str:
    quoted = raw.startswith('"')
    rest = raw[1:] if quoted else raw
    value, at, closed = list[str](), 0, not quoted
    while at < len(rest):
        character, following = rest[at], rest[at + 1 : at + 2]
        if character == "\\" and following:
            value.append({"n": "\n", '"': '"', "\\": "\\"}.get(following, character + following))
            at += 1
        elif character == '"':
            if closed or following:
                raise BadMatcher(f'the value {shown(raw)} has a " in it: write \\" there')
            closed = True
        else:
            value.append(character)
        at += 1
    if not closed:
        raise BadMatcher(f'the value {shown(raw)} does not end with a "')
    return "".join(value)


_TOKEN = re.compile(r'\s*(?:(=~|!~|!=|=|[{},])|("(?:[^"\\\n]|\\.)*")|([^\s{}!=~,\\"\'`]+))')
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_SINGLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


class _Reader:
    """Reads the syntax of Alertmanager 0.27 and later."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def matchers(self) -> list[Matcher]:
        """All matchers of the text."""
        braces = self._take_if("{")
        found = list[Matcher]()
        while not self._ends(braces):
            found.append(self._matcher())
            if not self._take_if(","):
                break
        if braces and not self._take_if("}"):
            raise self._unexpected("}")
        if self._text[self._at :].strip():
            raise self._unexpected("a comma or the end")
        return found

    def _ends(self, braces: bool) -> bool:
        rest = self._text[self._at :].lstrip()
        return not rest or (braces and rest.startswith("}"))

    def _matcher(self) -> Matcher:
        label = self._word("the name of a label")
        for operator in (Operator.MATCHES, Operator.NOT_MATCHES, Operator.NOT_EQUAL, Operator.EQUAL):
            if self._take_if(operator):
                return Matcher(label, operator, self._word("a value"))
        raise self._unexpected("one of = != =~ !~")

    def _take_if(self, symbol: str) -> bool:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found[1] != symbol:
            return False
        self._at = found.end()
        return True

    def _word(self, what: str) -> str:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found[1] is not None:
            raise self._unexpected(what)
        self._at = found.end()
        return found[3] if found[2] is None else _ESCAPE.sub(_unescaped, found[2][1:-1])

    def _unexpected(self, what: str) -> BadMatcher:
        rest = self._text[self._at :].strip()
        return BadMatcher(f"expected {what}, got {shown(rest) if rest else 'the end'} in {shown(self._text)}")


def _unescaped(found: re.Match[str]) -> str:
    if (hexadecimal := found[1] or found[2] or found[3]) is not None:
        code = int(hexadecimal, 16)
    elif found[4] is not None:
        code = int(found[4], 8)
    elif found[5] in _SINGLE:
        return _SINGLE[found[5]]
    else:
        raise BadMatcher(f"there is no escape {shown(found[0])}")
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise BadMatcher(f"the escape {shown(found[0])} is no character")
    return chr(code)
