"""The words of the field: no name, log line or error message uses the private words that this project once had."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "tasks", "blocks", "orchestration", "service", "bench")
_CARRY = ("carry", "carries", "carried", "carrying", "carrier")
_OTHERS = (
    "taking",
    "holder",
    "holders",
    "whole",
    "handover",
    "shelf",
    "book",
    "books",
    "desk",
    "bell",
    "will",
    "wishes",
)
FORBIDDEN = frozenset(_CARRY + _OTHERS)
COLUMNS = frozenset({"carried_by"})
"""Names of database columns, which a migration would have to rename."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def python_files() -> list[Path]:
    """The Python files of the packages, without migrations."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if "migrations" not in path.parts]


def words_of(name: str) -> set[str]:
    """The parts of a name in snake or camel case, in lower case."""
    return {part.lower() for part in _WORD.findall(name)}


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every name that the code gives or uses."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
            case _:
                pass


def messages_in(tree: ast.AST) -> Iterator[str]:
    """The texts of log calls and of raised errors."""
    for node in ast.walk(tree):
        is_log = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "logger"
        )
        if is_log or (isinstance(node, ast.Raise) and node.exc is not None):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_files_are_named_in_the_fields_words() -> None:
    named = {path.relative_to(ROOT): words_of(path.stem) & FORBIDDEN for path in python_files()}
    assert {path: words for path, words in named.items() if words} == {}


def test_code_is_written_in_the_fields_words() -> None:
    used = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files()
        for name in names_in(ast.parse(path.read_text()))
        if name not in COLUMNS and words_of(name) & FORBIDDEN
    }
    assert used == set()


def test_log_lines_and_errors_are_written_in_the_fields_words() -> None:
    said = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in python_files()
        for text in messages_in(ast.parse(path.read_text()))
        if {word.lower() for word in re.findall(r"[A-Za-z]+", text)} & FORBIDDEN
    }
    assert said == set()
