"""Questions to models: the budget of an hour, what each question cost, and the answers, by the hash of the evidence."""

from __future__ import annotations

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.analysis import ModelOptions
from orchestration.contracts import AnalyzeResult, Contract
from orchestration.redaction import redact

HOUR_SECONDS = 3600.0


class Used(Contract):
    """What a question has cost."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class ModelRecord(Contract):
    """What is on record of a model."""

    name: str
    questions: int
    """In the last hour, as the tokens and the cost."""
    tokens: int
    cost: float
    answered_at: UtcDatetime | None = None
    failed_at: UtcDatetime | None = None
    error: str | None = None
    """Of the last question that failed."""


_FIND = text("select answer from model_question where key = :key and answer is not null order by id desc limit 1")


async def find_answer(tx: AsyncConnection, key: str) -> AnalyzeResult | None:
    """The latest answer to the same question; None if there is none."""
    found = (await tx.execute(_FIND, {"key": key})).scalar_one_or_none()
    return None if found is None else AnalyzeResult.model_validate(found)


_LOCK = text("select pg_advisory_xact_lock(hashtextextended('model_question/' || :model, 0))")

# What is being asked counts with what was reserved for it, as does a question whose process died.
_RESERVE = text(
    """
    insert into model_question (key, model, run_id, reserved_tokens, cost)
    select :key, :model, :run_id, :tokens, :cost
    from (
        select
            coalesce(sum(case when ended_at is null then reserved_tokens else input_tokens + output_tokens end), 0)
                as tokens,
            coalesce(sum(cost), 0) as cost
        from model_question
        where model = :model and asked_at > clock_timestamp() - make_interval(secs => :seconds)
    ) as used
    where (cast(:most_tokens as bigint) is null or used.tokens + :tokens <= :most_tokens)
        and (cast(:most_cost as float) is null or used.cost + :cost <= :most_cost)
    returning id
    """
)


async def reserve(tx: AsyncConnection, key: str, options: ModelOptions, tokens: int, run_id: str | None) -> int | None:
    """Note that a model is about to be asked, and reserve so many tokens; the question's number.

    None means that this would be more than the model's budget of an hour.
    """
    await tx.execute(_LOCK, {"model": options.name})
    values = {
        "key": key,
        "model": options.name,
        "run_id": run_id,
        "tokens": tokens,
        "cost": options.cost(tokens - min(tokens, options.max_output_tokens), min(tokens, options.max_output_tokens)),
        "seconds": HOUR_SECONDS,
        "most_tokens": options.tokens_per_hour,
        "most_cost": options.cost_per_hour,
    }
    return (await tx.execute(_RESERVE, values)).scalar_one_or_none()


_SETTLE = text(
    """
    update model_question
    set ended_at = clock_timestamp(), requests = :requests, input_tokens = :input_tokens,
        output_tokens = :output_tokens, cost = :cost, error = :error, answer = cast(:answer as jsonb)
    where id = :id
    """
)


async def settle(
    tx: AsyncConnection, question: int, used: Used, *, answer: AnalyzeResult | None = None, error: str | None = None
) -> None:
    """Note how a question ended: with an answer, or with an error."""
    kept = None if answer is None else orjson.dumps(redact(answer.model_dump(mode="json"))).decode()
    await tx.execute(_SETTLE, {"id": question, **used.model_dump(), "error": error, "answer": kept})


_RECORDS = text(
    """
    select model as name,
        count(*) filter (where recent) as questions,
        coalesce(sum(case when ended_at is null then reserved_tokens else input_tokens + output_tokens end)
            filter (where recent), 0) as tokens,
        coalesce(sum(cost) filter (where recent), 0) as cost,
        max(ended_at) filter (where answer is not null) as answered_at,
        max(ended_at) filter (where error is not null) as failed_at,
        (array_agg(error order by id desc) filter (where error is not null))[1] as error
    from (
        select *, asked_at > clock_timestamp() - make_interval(secs => :seconds) as recent from model_question
    ) as question
    group by model order by model
    """
)


async def read_records(tx: AsyncConnection) -> list[ModelRecord]:
    """What is on record of each model that was asked."""
    rows = (await tx.execute(_RECORDS, {"seconds": HOUR_SECONDS})).mappings()
    return [ModelRecord(**row) for row in rows]


_PEOPLE = text(
    """
    select distinct name from (
        (select by as name from silence order by id desc limit :most)
        union all (select person from oncall_override order by id desc limit :most)
        union all (select created_by from oncall_override order by id desc limit :most)
        union all (select made_by from change_event order by id desc limit :most)
        union all
        select details ->> 'by' from (select details from history order by id desc limit :most) as latest
    ) as known
    where name <> ''
    """
)


async def people_on_record(tx: AsyncConnection, *, most: int = 500) -> list[str]:
    """Who has lately silenced, acknowledged, written a note, changed something, or been on call for somebody."""
    return list((await tx.execute(_PEOPLE, {"most": most})).scalars())
