"""An installation with a model that analyzes, an alert about db-77, and what of its analysis is on record."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from orchestration.analysis import ModelOptions
from orchestration.contracts import (
    AnalyzeResult,
    Check,
    CheckResult,
    CheckStatus,
    Contract,
    Stage,
    StageContext,
)
from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.requests import RunOptions
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from orchestration.store.story import read_story
from tasks.check.stage import CHECK
from tests.engine_helpers import execute, with_kind
from tests.inbox_helpers import accept_push
from tests.model_server import (
    answer_of,
    claim,
    step,
)
from tests.notify_helpers import rows
from tests.receivers import Answer, HttpReceiver

KEY = "sk-Kq83hHqPzR4vXw9TmNcY7LbD2"
GOOD = answer_of(
    claim("/var/lib is 98 % full", "check-1", quotes=("98 % full",), topic="disk"),
    claim("Disk fills on HOST_1", "alert-1", kind="effect", quotes=("DiskFull",), topic="disk"),
    steps=[step("Free space on HOST_1", "check-1", actions=("du -xh /var/lib | sort -h | tail",))],
)


@dataclass
class OneModel:
    """The models of an installation that has one."""

    options: ModelOptions
    asked: list[str | None] = field(default_factory=list[str | None])

    async def find(self, block: str | None) -> ModelOptions | None:
        self.asked.append(block)
        if block not in (None, self.options.name):
            raise BadInput(f"There is no analysis-model block {block!r} in Prefect. There are: {self.options.name}")
        return self.options


async def _checked(_context: StageContext, _config: Any) -> Contract:
    """The checks of db-77, as they would be if it were there."""
    found = [
        Check(name="disk", target="db-77", status=CheckStatus.CRITICAL, message="/var/lib is 98 % full"),
        Check(name="memory", target="db-77", status=CheckStatus.OK, message="41 % used"),
    ]
    return CheckResult(checks=found, checks_run=2, checks_passed=1, checks_failed=1)


def with_model(services: Services, server: HttpReceiver, **options: Any) -> Services:
    """These services with a model, and checks that find a full disk on db-77."""
    known = ModelOptions(
        name="default",
        model="small-model",
        base_url=f"{server.url}/v1",
        api_key=SecretStr(KEY),
        price_input=1.0,
        price_output=10.0,
    )
    changed = replace(services, models=OneModel(known.model_copy(update=options)))
    return with_kind(changed, CHECK, function=_checked)


async def page(services: Services, *, options: RunOptions | None = None, **fields: Any) -> RunRecord:
    """An alert about db-77, and its run to the end."""
    alert = {"name": "DiskFull", "severity": "critical", "instance": "db-77:9100", "fingerprint": "f1", **fields}
    (run_id,) = await accept_push(
        services, alert, source="generic", environment="test", options=options or RunOptions()
    )
    return await execute(services, run_id)


async def analysis_of(services: Services, run: RunRecord) -> AnalyzeResult:
    async with services.database.transaction() as tx:
        found = (await read_story(tx, run.run_id)).output(Stage.ANALYZE, AnalyzeResult)
    assert found is not None
    return found


async def questions(database: Database) -> list[dict[str, Any]]:
    return await rows(database, "select * from model_question order by id")


async def attempts(database: Database, run: RunRecord) -> list[tuple[str, str | None]]:
    found = await rows(
        database,
        "select a.status, a.error_message from stage_execution a join pipeline_run r on r.id = a.pipeline_run_id "
        "where r.run_id = :run_id and a.stage = 'analyze' order by a.id",
        run_id=run.run_id,
    )
    return [(one["status"], one["error_message"]) for one in found]


class Slow:
    """A model that answers when it is let go."""

    def __init__(self, answer: Answer) -> None:
        self.let_go = threading.Event()
        self.answer = answer

    def __call__(self, _request: Any) -> Answer:
        self.let_go.wait(20)
        return self.answer
