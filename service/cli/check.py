"""The command `alert-pipeline check`: look at a target now, as the check stage would."""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer
from rich.text import Text

from orchestration.contracts import CheckResult, CheckStatus, StageContext, Target
from orchestration.errors import BadInput
from orchestration.places import read_place
from orchestration.settings import Settings, load_settings
from orchestration.store.records import new_id
from orchestration.target import OwnHost
from service.cli.prometheus import CommandPrometheus
from service.cli.terminal import Json, as_json, fail, output
from tasks.check.checkers.base import Subject
from tasks.check.stage import CheckConfig
from tasks.check.stage import check as check_stage

NOT_LOOKED = 3
"""Exit code if a check could not be made or printed: 1 and 2 say what the checks have found. See `FAILURES` as well."""

_MARKS = {
    CheckStatus.OK: ("✓", "green"),
    CheckStatus.WARNING: ("!", "yellow"),
    CheckStatus.CRITICAL: ("✗", "red"),
    CheckStatus.UNKNOWN: ("?", "magenta"),
}


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="The checkers: cpu, memory, disk, network, process, http, tcp, tls, dns, prometheus. "
            "By default all that can look at the target."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="TARGET",
            help="What to look at: a host, host:port, [IPv6]:port, or a URL. By default this host.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='Options of checkers, such as \'{"tls": {"warn": 30}}\'.'),
    ] = None,
    fail_on_unknown: Annotated[
        bool, typer.Option("--fail-on-unknown", help="Exit with 1 also if something could not be found out.")
    ] = False,
    json: Json = False,
) -> int:
    """Look at a target now, as the check stage does for an alert about it.

    Exit code: 2 if a check is critical, 1 if one is a warning (with --fail-on-unknown also if one is unknown), 3 if a
    checker that you name could not find out, or none could, after any wrong use, and if the result cannot be printed;
    else 0. CHECKERS_ALLOW and CHECKERS_DENY say which addresses are checked. Who names tls says that the port speaks
    TLS.

    Examples:

    alert-pipeline check

    alert-pipeline check http tls --target https://shop.example.com/health

    alert-pipeline check --target db-1.example.com:5432 --json

    alert-pipeline check tls -t mail.example.com:465 --config '{"tls": {"warn": 30}}'
    """  # fmt: skip
    settings = load_settings()
    try:
        options = _options(config)
        CheckConfig.from_settings(settings, names=names or None, configs=options)
        found = asyncio.run(_look(settings, names or None, _only(target), options))
    except BadInput as error:
        fail(str(error), code=NOT_LOOKED)
    as_json(found.model_dump(mode="json")) if json else _show(found)
    return _exit_code(found, names or (), fail_on_unknown=fail_on_unknown)


def _options(text: str | None) -> dict[str, dict[str, object]]:
    if text is None:
        return {}
    try:
        found: Any = json_module.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput('--config: expected options by checker, such as \'{"tls": {"warn": 30}}\'')
    return cast("dict[str, dict[str, object]]", found)


def _only(targets: list[str] | None) -> str | None:
    if targets and len(targets) > 1:
        raise BadInput(f"--target: expected one target, got {len(targets)}")
    return targets[0] if targets else None


async def _look(
    settings: Settings, names: list[str] | None, target: str | None, options: dict[str, dict[str, object]]
) -> CheckResult:
    own = OwnHost.read()
    subject = Subject(
        target=own.target if target is None else _target(target, own),
        own_name=own.name,
        rules=settings.address_rules,
        prometheus=CommandPrometheus(settings),
    )
    if target is not None and subject.target and "tls" in (names or ()):
        options = {**options, "tls": {**_port_of_tls(subject.target), **options.get("tls", {})}}
    config = CheckConfig.from_settings(settings, names=names, configs=options, subject=subject)
    return await check_stage(StageContext(trace_id=new_id(), run_id=new_id()), config)


def _target(text: str, own: OwnHost) -> Target:
    place = read_place(text)
    if place is None:
        raise BadInput(f"--target: expected a host, host:port, [IPv6]:port or a URL, got {text[:80]!r}")
    return Target(host=place.host, port=place.port, url=place.url, is_own=own.is_it(place.host))


def _port_of_tls(target: Target) -> dict[str, object]:
    """The port at which a target speaks TLS if somebody says that it does. A URL says itself whether it does."""
    return {} if target.url else {"port": target.port or 443}


def _exit_code(found: CheckResult, names: Sequence[str], *, fail_on_unknown: bool) -> int:
    statuses = {one.status for one in found.checks}
    if CheckStatus.CRITICAL in statuses:
        return 2
    if CheckStatus.WARNING in statuses:
        return 1
    if not statuses or not found.left_out.keys().isdisjoint(names):
        return NOT_LOOKED
    if fail_on_unknown and CheckStatus.UNKNOWN in statuses:
        return 1
    unknown = {one.name for one in found.checks if one.status is CheckStatus.UNKNOWN}
    return NOT_LOOKED if statuses == {CheckStatus.UNKNOWN} or not unknown.isdisjoint(names) else 0


def _show(found: CheckResult) -> None:
    for one in found.checks:
        mark, style = _MARKS[one.status]
        target = f" of {one.target}" if one.target else ""
        line = f" {one.name}{target}: {one.status}, {one.message} ({one.duration_ms:.0f} ms)"
        output.print(Text.assemble((mark, style), line))
    for reason, names in found.reasons_to_leave_out.items():
        output.print(Text(f"- not {', '.join(names)}: {reason}", style="dim"))
