"""What a model asks its tools for is untrusted: it hears what is wrong with it, and its analysis goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from flows.model_tools import PipelineTools
from orchestration.engine.run import Services
from tests.model_helpers import GOOD, analysis_of, attempts, page, with_model
from tests.model_server import answer_of, calls, claim, completion, said, step, texts_of
from tests.receivers import Answer, HttpReceiver

NUL, HUGE = "\x00", "x" * 50_000


def asks(name: str, arguments: str) -> Answer:
    """A model that calls a tool with these arguments, byte for byte."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return completion({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")


def with_own_tools(services: Services, model: HttpReceiver) -> Services:
    tools = PipelineTools(settings=services.settings, database=services.database)
    return with_model(replace(services, tools=tools), model, uses_tools=True)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("read_run", ["run_id"]), ("query_prometheus", ["expression"]), ("check", ["checker", "target"])],
)
async def test_hostile_arguments_are_answered_and_end_nothing(
    services: Services, model: HttpReceiver, name: str, fields: list[str]
) -> None:
    hostile: list[Any] = [NUL, f"db-77{NUL}", HUGE, "", 7, None, ["db-77"], {"a": 1}, "db-77\x1b[31m"]
    for value in hostile:
        arguments = {field: value for field in fields}
        model.answer_next(calls((name, arguments)), said(GOOD))
    lone = json.dumps({field: "\ud800" for field in fields})
    model.answer_next(asks(name, lone), asks(name, "[1"), said(GOOD))
    services = with_own_tools(services, model)
    for number in range(len(hostile) + 1):
        run = await page(services, fingerprint=f"f{number}", summary=f"Disk of db-77, {number}")
        found = await analysis_of(services, run)
        assert not run.intelligence_fallback_used, attempts
        assert found.probable_cause == "/var/lib is 98 % full"
        assert len(await attempts(services.database, run)) == 1
    told = [texts_of(request) for request in model.requests[1::2]]
    assert len(model.requests) == 2 * len(hostile) + 3
    assert all("Not possible" in one or "rror" in one or "retry" in one for one in told)


async def test_an_answer_with_signs_that_are_no_text_is_read_without_them(
    services: Services, model: HttpReceiver
) -> None:
    odd = f"/var/lib{NUL} is 98 % full"
    answer = answer_of(
        claim(odd, "check-1", quotes=(f"98 % full{NUL}",), topic=f"disk{NUL}"),
        claim("Nothing", f"check-9{NUL}"),
        summary=odd,
        steps=[step(f"Free{NUL} space", "check-1", actions=(f"df -h{NUL}",), type=f"disk{NUL}")],
    )
    lone = json.dumps(answer).replace("Free", "Free\\ud800")
    model.answer_next(said(answer), asks("final_result", lone), said(GOOD))
    services = with_own_tools(services, model)
    for number in range(2):
        run = await page(services, fingerprint=f"f{number}", summary=f"Disk of db-77, {number}")
        assert not run.intelligence_fallback_used
        assert "/var/lib is 98 % full" in (await analysis_of(services, run)).probable_cause
        assert len(await attempts(services.database, run)) == 1
