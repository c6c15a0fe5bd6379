"""Where the secrets of a name stand if it has several values, or one of several lines: lists, mappings, YAML blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestration.secret_words import Names, is_secret_value, looks_made

QUOTED = (
    r"""\\"[^"\\\n]*\\?"?|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\n]|'')*'?"""
    r"""|“[^”\n]{0,512}”|«[^»\n]{0,512}»|`[^`\n]{1,512}`"""
)
"""A value in quotation marks. Those that a text breaks off within have no end."""

Span = tuple[int, int]
"""The begin and the end of a part of a text."""

_MOST_ITEMS = 1_000
_MOST_INDENT = 128

_NEWLINE = r"(?:\r?\n|(?:\\r)?\\n)"
"""A line break, or how JSON and logs write one."""

_OPENED = re.compile(r"[\[(]\s*$")
_OPENED_MAPPING = re.compile(r"\{\s*$")
_MAPPING = re.compile(r"[^{}]{1,4096}")
_ITEM = re.compile(rf"{QUOTED}|[^\s,\[\](){{}}\"'][^,\[\](){{}}\"'\n]{{0,512}}")
_COMMA = re.compile(r"\s{0,64},\s{0,64}")
_WORD = re.compile(rf"{QUOTED}|[^\s,;\"'\[\](){{}}]{{1,256}}(?![:=])")
_IS_KEY = re.compile(r"\s{0,8}[:=]")

_BLOCK = re.compile(rf"[|>][+\-\d]{{0,2}}[ \t]*(?:#[^\n]*)?{_NEWLINE}")
_LINE_ENDS = re.compile(rf"[ \t]*(?:#[^\n]*)?{_NEWLINE}")
_LINE = re.compile(rf"(?P<indent>[ \t]*)(?P<dash>(?:- +)?)(?P<words>(?:(?!{_NEWLINE})[^\n])*)(?:{_NEWLINE}|\Z)")
_INDENT = re.compile(r"[ \t]*(?:- +)*")
_KEY_OF_ITEM = re.compile(r"[\w.\-\"']{1,64}:(?: |$)")


def several_values(text: str, key: re.Match[str], meaning: Names) -> list[Span] | None:
    """The parts of a text that are secret values of a key which has more than a word behind it.

    `key` ends where the value begins; its first group is the name. None means that the key has one value, or none.
    """
    at = key.end()
    if _OPENED.search(key[0]):
        return _items(text, at, meaning, _ITEM)
    if _OPENED_MAPPING.search(key[0]) and meaning in (Names.PASSWORD, Names.CREDENTIAL):
        mapping = _MAPPING.match(text, at)
        return [mapping.span()] if mapping is not None and ":" in mapping[0] else None
    if (block := _BLOCK.match(text, at)) is not None:
        return _block(text, key.start(), block.end(), meaning)
    if (line_ends := _LINE_ENDS.match(text, at)) is not None:
        return _lines(text, key.start(), line_ends.end(), meaning)
    if key[1].lower().endswith("passwords") and _COMMA.search(text, at, at + 256):
        return _items(text, at, meaning, _WORD)
    return None


def _items(text: str, at: int, meaning: Names, item: re.Pattern[str]) -> list[Span]:
    """The secret ones among values with commas between them."""
    found: list[Span] = []
    for _ in range(_MOST_ITEMS):
        value = item.match(text, at)
        if value is None or _IS_KEY.match(text, value.end()):
            break
        begin, end = _inner(text, *value.span())
        if is_secret_value(meaning, text[begin:end]):
            found.append((begin, end))
        if (comma := _COMMA.match(text, value.end())) is None:
            break
        at = comma.end()
    return found


def _block(text: str, key_start: int, at: int, meaning: Names) -> list[Span]:
    """The lines of a YAML block, if they are a secret."""
    lines = list(_indented(text, at, more_than=_indent_of(text, key_start)))
    if not lines:
        return []
    begin, end = lines[0].start("words"), lines[-1].end("words")
    always = meaning in (Names.PASSWORD, Names.CREDENTIAL)
    return [(begin, end)] if always or any(is_secret_value(meaning, line["words"].strip()) for line in lines) else []


def _lines(text: str, key_start: int, at: int, meaning: Names) -> list[Span]:
    """The secret ones among the items of a YAML list, or the value that stands alone in the line below its key."""
    found: list[Span] = []
    indent = _indent_of(text, key_start)
    for number, line in enumerate(_indented(text, at, more_than=indent - 1)):
        is_item = bool(line["dash"])
        if not is_item and (number or len(line["indent"]) <= indent):
            break
        begin, end = line.span("words")
        words = text[begin:end].strip()
        if _KEY_OF_ITEM.match(words):
            break
        begin, end = _inner(text, begin, begin + len(text[begin:end].rstrip()))
        # Several words without quotation marks are a sentence: `To reset the password:` goes on with what to do.
        is_value = " " not in words or words[0] in "\"'" or any(map(looks_made, words.split()))
        if is_value and is_secret_value(meaning, text[begin:end]):
            found.append((begin, end))
        if not is_item:
            break
    return found


def _indented(text: str, at: int, *, more_than: int) -> Iterator[re.Match[str]]:
    """The lines from there on, as long as they are indented so far. Empty lines among them are left out."""
    for _ in range(_MOST_ITEMS):
        line = _LINE.match(text, at)
        if line is None or at >= len(text):
            return
        at = line.end()
        if not line["words"] and not line["dash"]:
            continue
        if len(line["indent"]) <= more_than:
            return
        yield line


def _indent_of(text: str, key_start: int) -> int:
    """How far the key is indented, also as the first one of an item."""
    far = max(0, key_start - _MOST_INDENT)
    begin = max(far, text.rfind("\n", far, key_start) + 1)
    if (written := text.rfind("\\n", begin, key_start)) >= 0:
        begin = written + 2
    before = _INDENT.match(text, begin, key_start)
    if before is None:
        return 0
    return before.end() - begin if before.end() == key_start else len(before[0]) - len(before[0].lstrip(" \t"))


def _inner(text: str, begin: int, end: int) -> Span:
    """A value without the quotation marks around it, and without spaces at its end."""
    for mark in ('\\"', '"', "'"):
        if text.startswith(mark, begin, end):
            begin += len(mark)
            return begin, end - len(mark) if text.endswith(mark, begin, end) else end
    return begin, begin + len(text[begin:end].rstrip())
