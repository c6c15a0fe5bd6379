"""From anything that came from outside to a policy, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast, get_args

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from orchestration.bounds import out_of_bounds
from orchestration.errors import json_kind
from orchestration.policy.checking import KnownChecker, wrong_checks
from orchestration.policy.document import MAX_BYTES, MAX_DEPTH, Document, Path, read_document
from orchestration.policy.doubts import doubts_of
from orchestration.policy.model import MAX_ROUTES, Policy, Route
from orchestration.policy.names import unknown_channels, unknown_names, useless_steps
from orchestration.policy.problems import BadPolicy, PolicyProblem
from orchestration.problems import explain, path_of
from orchestration.redaction import shown


@dataclass(frozen=True, kw_only=True)
class ReadPolicy:
    """A policy that can be used."""

    policy: Policy
    written: dict[str, JsonValue]
    """The policy as its author wrote it, as plain values."""
    warnings: tuple[PolicyProblem, ...] = ()
    """What its author may not have meant: routes that no alert reaches, and channels that do not exist."""


def read_policy(
    text: str | bytes,
    *,
    channels: Collection[str] | None = None,
    checkers: Mapping[str, KnownChecker] | None = None,
) -> ReadPolicy:
    """The policy in a YAML or JSON text.

    `channels` are the names of all channels, and `checkers` all checkers by name. None means that they are not known,
    and are not looked at.

    Raises:
        BadPolicy: all that is wrong, each problem with its line and field.
    """
    return _parsed(read_document(text), warn=True, channels=channels, checkers=checkers)


def parse_policy(raw: object, *, warn: bool = False, channels: Collection[str] | None = None) -> ReadPolicy:
    """The policy in a value, such as the store or a block in Prefect has. Its problems have no lines.

    Warnings are for authors: only with `warn` they are looked for, as are steps that notify nobody; and those about
    channels with `channels`, the names of all.

    Raises:
        BadPolicy: all that is wrong, each problem with its field.
    """
    return _parsed(Document(value=raw, lines={}), warn=warn, channels=channels)


def _parsed(
    document: Document,
    *,
    warn: bool,
    channels: Collection[str] | None = None,
    checkers: Mapping[str, KnownChecker] | None = None,
) -> ReadPolicy:
    raw = document.value
    if (wrong := out_of_bounds(raw, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)) is not None:
        raise BadPolicy([_problem(document, (), wrong)])
    if not isinstance(raw, Mapping):
        expected = f"expected an object with fields such as routes, got {json_kind(raw)}"
        raise BadPolicy([*document.problems, _problem(document, (), expected)])
    given = cast("dict[str, JsonValue]", raw)
    found = [*document.problems]
    found += [_problem(document, path, message) for path, message in unknown_names(given)]
    try:
        policy = Policy.model_validate(given)
    except ValidationError as error:
        found += _explained(error, document)
        raise BadPolicy(_in_order(found)) from None
    if (count := _count(policy.routes)) > MAX_ROUTES:
        found.append(_problem(document, ("routes",), f"has {count:,} routes: a policy has at most {MAX_ROUTES:,}"))
    if warn:
        found += [_problem(document, path, message) for path, message in useless_steps(policy)]
    if checkers is not None:
        found += [_problem(document, path, message) for path, message in wrong_checks(policy, checkers)]
    if found:
        raise BadPolicy(_in_order(found))
    doubtful = [*doubts_of(policy)] if warn else []
    doubtful += [] if channels is None else unknown_channels(given, channels)
    warnings = _in_order([_problem(document, path, message) for path, message in doubtful])
    return ReadPolicy(policy=policy, written=given, warnings=tuple(warnings))


def _count(routes: Sequence[Route]) -> int:
    return sum(1 + _count(route.routes) for route in routes)


def _problem(document: Document, path: Path, message: str) -> PolicyProblem:
    return PolicyProblem(line=document.line_of(path), field=path_of(path), message=message)


def _in_order(problems: Sequence[PolicyProblem]) -> list[PolicyProblem]:
    """The problems in the order of the text."""
    return sorted(problems, key=lambda problem: problem.line or 0)


def _explained(error: ValidationError, document: Document) -> list[PolicyProblem]:
    """What pydantic has found, in words, without what only follows from a mistake further inside."""
    errors = error.errors(include_url=False)
    inner = {each["loc"][:length] for each in errors for length in range(len(each["loc"]))}
    return [
        _problem(document, each["loc"], _in_words(each))
        for each in errors
        if not (each["type"] == "too_short" and each["loc"] in inner)
    ]


_EXPECTED = {
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a number without a fraction",
}
"""What a field expects, by pydantic's type of error: its own words are Python's."""


def _in_words(error: ErrorDetails) -> str:
    if (expected := _EXPECTED.get(error["type"])) is None:
        return explain(error, known=_fields_at(error))
    given = cast("object", error["input"])
    said = json_kind(cast("object", given)) if isinstance(given, list | dict) else shown(given)
    return f"expected {expected}, got {said}"


def _fields_at(error: ErrorDetails) -> list[str]:
    """The fields that there are where a field is none."""
    names = [part for part in error["loc"] if isinstance(part, str)]
    return _fields_of(tuple(names[:-1]))


@cache
def _known_fields() -> dict[str, list[str]]:
    """The fields of each object that a policy contains, by the name of the field that has it."""
    found: dict[str, list[str]] = {"": _names_of(Policy)}

    def collect(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            for inner in _models_in(field.annotation):
                if (field.alias or name) not in found:
                    found[field.alias or name] = _names_of(inner)
                    collect(inner)

    collect(Policy)
    return found


def _fields_of(names: tuple[str, ...]) -> list[str]:
    # The last name that is a field with an object; names that people chose, such as a window's, come between.
    return next((_known_fields()[name] for name in reversed(names) if name in _known_fields()), _names_of(Policy))


def _names_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation such as `dict[str, tuple[Period, ...]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
