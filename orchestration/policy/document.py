"""From a YAML or JSON text to plain values that know their lines.

Scalars are read as YAML 1.2 and JSON read them: `on` and `09:00` are texts. Aliases and `<<` are resolved; what they
grow to is bounded, as everything else is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import yaml

from orchestration.policy.problems import BadPolicy, PolicyProblem
from orchestration.redaction import shown

MAX_BYTES = 512 * 1024
"""The size of a text."""

MAX_DEPTH = 32
"""Levels of lists and objects in each other."""

MAX_VALUES = 50_000
"""Values of a text, with those that aliases repeat."""

_MAX_DIGITS = 300

Path = tuple[str | int, ...]
"""Where a value is: names of fields and numbers in lists."""


@dataclass(frozen=True)
class Document:
    """The value of a text, and the line on which each of its parts starts."""

    value: object
    lines: Mapping[Path, int]
    problems: tuple[PolicyProblem, ...] = ()
    """What is wrong with the text, although its value could be read, such as a key that is there twice."""

    def line_of(self, path: Sequence[str | int]) -> int | None:
        """The line of the value at this path, else of what contains it. None means that there is no line at all."""
        found = tuple(path)
        while found not in self.lines and found:
            found = found[:-1]
        return self.lines.get(found)


def read_document(text: str | bytes, *, plain_text: bool = False) -> Document:
    """The value in a YAML or JSON text. With `plain_text` every scalar but null is the text that is written there.

    Raises:
        BadPolicy: it is too large or too deep, or no YAML.
    """
    decoded = _decoded(text)
    reader = _Reader(plain_text=plain_text)
    try:
        for event in cast("Iterator[yaml.Event]", _parse(decoded, Loader=_LOADER)):
            reader.add(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refusal(mark.line + 1 if mark else None, f"is no YAML: {_said(error)}") from None
    except yaml.YAMLError as error:
        line = _line_at(decoded, getattr(error, "position", None))
        raise _refusal(line, "has a character that YAML does not allow") from None
    if reader.root is None:
        raise _refusal(1, "is empty")
    plain = _Plain()
    value = plain.value_of(reader.root, ())
    return Document(value=value, lines=plain.lines, problems=(*reader.problems, *plain.problems))


# The stubs of PyYAML say little of what it takes and gives.
_parse: Any = cast("Any", yaml).parse
_dump: Any = cast("Any", yaml).dump
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _refusal(line: int | None, message: str) -> BadPolicy:
    return BadPolicy([PolicyProblem(line=line, field="", message=message)])


def _said(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part) or "it cannot be read"


def _line_at(text: str, position: int | None) -> int | None:
    return None if position is None else text.count("\n", 0, position) + 1


_UNUSUAL = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _decoded(text: str | bytes) -> str:
    """The text in the form that the YAML reader takes.

    Raises:
        BadPolicy: it is too large, or no text in UTF-8.
    """
    if len(text) > MAX_BYTES:
        raise _refusal(None, f"has more than {MAX_BYTES:,} bytes, and no more are read")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _refusal(text.count(b"\n", 0, error.start) + 1, "is no text in UTF-8") from None
    if "\0" in text:
        raise _refusal(_line_at(text, text.index("\0")), "has a NUL character")
    if text.lstrip().startswith("{"):
        # JSON may be indented with tabs, escapes characters in two halves, and allows some within texts that YAML does
        # not. A tab within a text is not allowed in JSON.
        text = text.replace("\t", " ")
        text = _UNUSUAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        text = _SURROGATES.sub(lambda found: found[1] + _character(found[2], found[3]), text)
    return text


def _character(high: str, low: str) -> str:
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)


@dataclass
class _Node:
    """A value on its line. `members` of an object are its key's line and its value, by key."""

    line: int
    scalar: object = None
    items: list[_Node] | None = None
    members: dict[str, tuple[int, _Node]] | None = None
    merged: list[_Node] = field(default_factory=list["_Node"])
    key: tuple[str, int] | None = None
    """The key, with its line, whose value comes next."""


_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _scalar(text: str, *, plain_text: bool) -> object:
    """The value of a text without quotes."""
    if text in _CONSTANTS and not (plain_text and _CONSTANTS[text] is not None):
        return _CONSTANTS[text]
    if plain_text or len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Dumper(yaml.SafeDumper):
    """Writes texts in quotes where this module would read them as something else."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        """Repeat a value that is there twice: nobody wants to read aliases that a program has made."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent the items of a list below its key."""
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = isinstance(_scalar(text, plain_text=False), str)
    return cast("Any", dumper).represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def write_document(value: object) -> str:
    """A value as a YAML text that `read_document()` reads as the same value. Objects keep the order of their fields."""
    text: str = _dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Reader:
    """Builds the value from the events of a YAML parser, without recursion."""

    def __init__(self, *, plain_text: bool) -> None:
        self.root: _Node | None = None
        self.problems: list[PolicyProblem] = []
        self._plain_text = plain_text
        self._open: list[_Node] = []
        self._anchors: dict[str, _Node] = {}
        self._values = 0
        self._documents = 0

    def add(self, event: yaml.Event) -> None:
        """Take the next event in."""
        line: int = event.start_mark.line + 1 if event.start_mark else 1
        match event:
            case yaml.ScalarEvent():
                self._add_node(self._scalar_node(event, line), event)
            case yaml.SequenceStartEvent():
                self._start(_Node(line, items=[]), event)
            case yaml.MappingStartEvent():
                self._start(_Node(line, members={}), event)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._open.pop()
            case yaml.AliasEvent():
                self._place(self._anchors.get(event.anchor, _Node(line)), line)
                if event.anchor not in self._anchors:
                    self._report(line, f"there is no anchor {shown(event.anchor)}")
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _refusal(line, "has more than one document, and one is read")
            case _:
                pass

    def _scalar_node(self, event: yaml.ScalarEvent, line: int) -> _Node:
        text: str = event.value
        tag = (event.tag or "").removeprefix("tag:yaml.org,2002:")
        if tag not in ("", "!", "str", "int", "float", "bool", "null"):
            self._report(line, f"has the tag {shown(event.tag)}, which means nothing here")
        is_plain = event.implicit[0] if not tag else tag not in ("!", "str")
        return _Node(line, scalar=_scalar(text, plain_text=self._plain_text) if is_plain else text)

    def _start(self, node: _Node, event: yaml.CollectionStartEvent) -> None:
        if event.tag and event.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "!"):
            self._report(node.line, f"has the tag {shown(event.tag)}, which means nothing here")
        self._add_node(node, event)
        self._open.append(node)
        if len(self._open) > MAX_DEPTH:
            raise _refusal(node.line, f"is nested deeper than {MAX_DEPTH} levels")

    def _add_node(self, node: _Node, event: yaml.NodeEvent) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _refusal(node.line, f"has more than {MAX_VALUES:,} values")
        self._place(node, node.line)
        if event.anchor:
            self._anchors[event.anchor] = node

    def _place(self, node: _Node, line: int) -> None:
        """Put a value where it belongs: into the list or object that is open, or at the top."""
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.items is not None:
            parent.items.append(node)
        elif parent.key is None:
            parent.key = self._key_of(node), line
        else:
            (key, key_line), parent.key = parent.key, None
            self._add_member(parent, key, key_line, node)

    def _key_of(self, node: _Node) -> str:
        if node.items is not None or node.members is not None or node.scalar is None:
            self._report(node.line, "has a key that is no text")
            return ""
        return node.scalar if isinstance(node.scalar, str) else str(node.scalar)

    def _add_member(self, parent: _Node, key: str, line: int, node: _Node) -> None:
        members = cast("dict[str, tuple[int, _Node]]", parent.members)
        if key == "<<":
            parent.merged.append(node)  # a list has its items later
        elif key in members:
            self._report(line, f"has the key {shown(key)} twice: it is also on line {members[key][0]}")
        else:
            members[key] = line, node

    def _report(self, line: int, message: str) -> None:
        self.problems.append(PolicyProblem(line=line, field="", message=message))


class _Plain:
    """Makes plain values of nodes, and notes the line of each."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[PolicyProblem] = []
        self._values = 0

    def value_of(self, node: _Node, path: Path) -> object:
        """The plain value of a node at this path.

        Raises:
            BadPolicy: aliases make it too large or endless.
        """
        self._values += 1
        if self._values > MAX_VALUES:
            raise _refusal(node.line, f"has more than {MAX_VALUES:,} values, with those that aliases repeat")
        if len(path) > MAX_DEPTH:
            raise _refusal(node.line, f"is nested deeper than {MAX_DEPTH} levels")
        self.lines.setdefault(path, node.line)
        if node.items is not None:
            return [self.value_of(item, (*path, number)) for number, item in enumerate(node.items)]
        if node.members is None:
            return node.scalar
        return {key: self._member(line, each, (*path, key)) for key, (line, each) in self._members_of(node).items()}

    def _member(self, line: int, node: _Node, path: Path) -> object:
        self.lines[path] = line
        return self.value_of(node, path)

    def _members_of(self, node: _Node, depth: int = 0) -> dict[str, tuple[int, _Node]]:
        """The members of an object with those that it merges; its own come first, then those of the first merged."""
        members = dict(node.members or {})
        for merged in chain.from_iterable(each.items if each.items is not None else [each] for each in node.merged):
            if merged.members is None:
                problem = PolicyProblem(line=node.line, field="", message="merges with << what is no object")
                self.problems.append(problem)
            self._values += 1 + len(members)
            if self._values > MAX_VALUES or depth > MAX_DEPTH:
                raise _refusal(node.line, "merges too much with <<")
            for key, member in self._members_of(merged, depth + 1).items():
                members.setdefault(key, member)
        return members
