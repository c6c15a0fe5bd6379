"""Series and dependencies as CSV, plain or gzip, from files that somebody else has written."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import nan

from orchestration.changes.series import Name, Point, Table
from orchestration.errors import BadInput

MAX_BYTES = 100_000_000
"""How large a file may be, unpacked."""

MAX_ROWS = 2_000_000

_END_OF_TIME = 1e11
"""What is later is in milliseconds, or no time at all."""

_GZIP = b"\x1f\x8b"
_NOTHING = frozenset({"", "nan", "null", "none", "na", "n/a", "-"})


def read_series(content: bytes, called: str) -> Table:
    """The series of a file with the columns time, entity, metric and value; others are left out.

    `time` is in Unix seconds, or as 2026-11-28T01:30:00Z. A value that is missing is a gap.

    Raises:
        BadInput: the content cannot be read, or has no rows. The message begins with `called`.
    """
    found: dict[Name, list[Point]] = defaultdict(list)
    for line, (moment, entity, metric, value) in _rows(content, called, ("time", "entity", "metric", "value")):
        try:
            point = float(moment), float(value)
        except ValueError:
            point = _time(moment, called, line), _value(value, called, line)
        if not 0 <= point[0] < _END_OF_TIME:
            raise BadInput(f"{called}, line {line}: the time {moment[:40]!r} is none in Unix seconds")
        found[entity, metric].append(point)
    return found


def read_dependencies(content: bytes, called: str) -> list[tuple[str, str]]:
    """Who calls whom, from a file with the columns caller and callee.

    Raises:
        BadInput: the content cannot be read, or has no rows. The message begins with `called`.
    """
    return [(caller, callee) for _, (caller, callee) in _rows(content, called, ("caller", "callee"))]


def _rows(content: bytes, called: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file and these columns of each."""
    reader = csv.reader(io.StringIO(_text(content, called), newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, list[str]())]
        if missing := [name for name in columns if name not in header]:
            raise BadInput(
                f"{called} has no column {', '.join(missing)}: its first line has to name the columns "
                f"{', '.join(columns)}"
            )
        places, width, count = [header.index(name) for name in columns], len(header), 0
        for row in reader:
            if len(row) != width:
                if not row:
                    continue
                raise BadInput(f"{called}, line {reader.line_num}: {len(row)} values where there are {width} columns")
            count += 1
            if count > MAX_ROWS:
                raise BadInput(f"{called} is too long: it may have {MAX_ROWS:,} rows")
            yield reader.line_num, [row[place] for place in places]
    except csv.Error as error:
        raise BadInput(f"{called}, line {reader.line_num}, is no CSV: {error}") from None
    if not count:
        raise BadInput(f"{called} has no rows")


def _text(content: bytes, called: str) -> str:
    if content[:2] == _GZIP:
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{called} is a broken gzip file: {error}") from None
    if len(content) > MAX_BYTES:
        raise BadInput(f"{called} is too large: it may have {MAX_BYTES:,} bytes, unpacked")
    if not content.strip():
        raise BadInput(f"{called} is empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{called} is no text in UTF-8: byte {error.start:,} is none") from None


def _time(text: str, called: str, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadInput(f"{called}, line {line}: the time {text[:40]!r} is neither Unix seconds nor a moment") from None


def _value(text: str, called: str, line: int) -> float:
    if text.strip().lower() in _NOTHING:
        return nan
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{called}, line {line}: the value {text[:40]!r} is no number") from None
