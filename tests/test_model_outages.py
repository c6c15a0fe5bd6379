"""A model that does not answer, or not well: an outage is said, and the page goes out without it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from orchestration.contracts import (
    ClaimKind,
)
from orchestration.engine.run import Services
from orchestration.states import RunStatus
from tests.conftest import MemoryChannel
from tests.model_helpers import GOOD, KEY, analysis_of, attempts, page, questions, with_model
from tests.model_server import (
    answer_of,
    calls,
    claim,
    model_server,
    said,
    step,
    wrote,
)
from tests.notify_helpers import rows
from tests.receivers import Answer, HttpReceiver

OUTAGES: dict[str, tuple[tuple[int | Answer, ...], bool, str]] = {
    "a rate limit": ((429,) * 4, True, "answered 429"),
    "a server error": ((500,) * 4, True, "answered 500"),
    "garbage": ((Answer(200, b"<html>502</html>", {"Content-Type": "text/html"}),), False, ""),
    "JSON of another kind": ((Answer.json({"hello": "world"}),), False, ""),
    "an empty list": ((Answer.json([]),), False, ""),
    "no choices": ((Answer.json({"id": "1", "object": "chat.completion", "choices": []}),), False, ""),
    "words that are no answer": ((wrote("I cannot help with that"),) * 2, False, "cannot be read"),
    "a form that is wrong": ((calls(("final_result", {})),) * 2, False, "it has not the form that was asked for"),
    "an empty answer": ((said(answer_of(summary=" ")),), False, "answered with nothing"),
    "an answer without an end": ((Answer(200, b" " * 5_000_000, {"Content-Type": "application/json"}),) * 4, True, ""),
    "a redirect": ((Answer(307, b"", {"Location": "http://127.0.0.1:9/"}),) * 4, True, ""),
    "a refused key": ((Answer.json({"error": {"message": "bad key"}}, 401),), False, "answered 401"),
}


@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage_is_an_outage_and_never_an_empty_success(
    services: Services, channel: MemoryChannel, model: HttpReceiver, name: str
) -> None:
    answers, retried, words = OUTAGES[name]
    model.answer_next(*answers)
    services = with_model(services, model)
    run = await page(services)
    found = await analysis_of(services, run)

    assert (run.status, run.intelligence_fallback_used) == (RunStatus.NOTIFIED, True)
    assert (found.summary, found.fallback_used, found.confidence) == ("AI analysis unavailable", True, 0.0)
    assert "AI analysis unavailable: The model 'small-model' (default)" in channel.messages[0].text
    assert len(model.requests) == len(answers)
    tried = await attempts(services.database, run)
    assert [status for status, _ in tried] == [*(["retrying"] * 3 if retried else []), "failed", "succeeded"]
    assert all(words in (message or "") for _, message in tried[:-1])
    assert all(one["error"] and one["answer"] is None for one in await questions(services.database))


async def test_without_the_model_the_page_has_what_the_local_rules_know(
    services: Services, channel: MemoryChannel, model: HttpReceiver
) -> None:
    model.answer_with(calls(("final_result", {})))
    run = await page(with_model(services, model))
    found = await analysis_of(with_model(services, model), run)
    assert found.actions[0].startswith("Find what fills /: where db-77:9100 runs: du -xh")
    assert found.actions[-1] == "Manual investigation required"
    assert found.claims[0].kind is ClaimKind.CAUSE
    [message] = channel.messages
    assert "Cause: Probably a disk" in message.text
    assert "Note: the steps are those of the local analysis" in message.text
    assert [message.actions[0], message.actions[-1]] == [found.actions[0], "Manual investigation required"]


async def test_an_answer_of_endless_texts_is_judged_by_their_beginning(
    services: Services, channel: MemoryChannel, model: HttpReceiver
) -> None:
    long = "a" * 50_000
    model.answer_with(
        said(answer_of(claim(long, "check-1"), claim("/var/lib is 98 % full", "check-1", quotes=(long, "98 % full")),
                       steps=[step("Look", "check-1", actions=(long, "df -h " + " " * 50_000))]))
    )  # fmt: skip
    services = with_model(services, model)
    found = await analysis_of(services, await page(services))
    assert (found.claims, found.confidence) == ([], 0.2)
    assert len(found.dropped) == 3
    assert channel.messages


KEYS = ("sk-brkkey", "plainwords", "Zm9v/YmFy+==", "geheim mit leerzeichen", "insufficient_quota", "k'<b>\"e")

REFUSALS: dict[str, tuple[Callable[[str], Answer], str]] = {
    "the key in a message": (
        lambda key: Answer.json({"error": {"message": f"Incorrect API key provided: {key}"}}, 401),
        "answered 401: it refuses the key",
    ),
    "a part of the key": (
        lambda key: Answer.json({"error": {"message": f"Bad key {key[:7]}****{key[-5:]}"}}, 403),
        "answered 403: it refuses the key",
    ),
    "the key as the code": (lambda key: Answer.json({"error": {"code": key, "message": key}}, 400), "answered 400"),
    "markup": (
        lambda key: Answer(404, f"<script>alert('{key}')</script>".encode(), {"Content-Type": "text/html"}),
        "answered 404: it does not know the model or the address",
    ),
    "another form of the key": (
        lambda key: Answer.json({"detail": [f"{quote(key, safe='')} see https://vendor.example/docs"]}, 422),
        "answered 422",
    ),
    "the key in a text": (lambda key: Answer(402, key.encode()), "answered 402: it wants to be paid"),
}


@pytest.mark.parametrize(("key", "name"), list(zip(KEYS, REFUSALS, strict=True)))
async def test_what_a_vendor_says_of_an_error_never_has_the_key(
    services: Services,
    channel: MemoryChannel,
    model: HttpReceiver,
    caplog: pytest.LogCaptureFixture,
    key: str,
    name: str,
) -> None:
    refuse, words = REFUSALS[name]
    model.answer_next(refuse(key))
    run = await page(with_model(services, model, api_key=SecretStr(key)))
    told = [message.text for message in channel.messages]
    for table in ("stage_execution", "pipeline_run", "model_question"):
        told += map(str, await rows(services.database, f"select * from {table}"))
    told.append(caplog.text)
    assert run.intelligence_fallback_used
    assert words in told[0]
    for one in told:
        assert not any(part in one for part in (key, quote(key, safe=""), "<script", "vendor.example", "****"))


async def test_a_code_of_the_vendor_says_why(services: Services, channel: MemoryChannel, model: HttpReceiver) -> None:
    model.answer_next(*[Answer.json({"error": {"message": "<b>No</b>", "code": "insufficient_quota"}}, 429)] * 4)
    await page(with_model(services, model))
    assert "answered 429: its limit of requests or tokens is reached (insufficient_quota)" in channel.messages[0].text


async def test_a_tool_that_does_not_exist_is_told_without_the_words_of_a_library(
    services: Services, channel: MemoryChannel, model: HttpReceiver
) -> None:
    model.answer_with(calls(("destroy_everything", {"now": True})))
    await page(with_model(services, model))
    [message] = channel.messages
    assert "came to no answer within its bounds" in message.text
    assert not any(word in message.text for word in ("pydantic", "https://", "destroy_everything", "retries"))


async def test_without_the_packages_that_ask_models_each_page_says_what_is_missing(
    services: Services, channel: MemoryChannel, model: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.analyze.model.vendors.find_spec", lambda _name: None)
    run = await page(with_model(services, model))
    assert run.intelligence_fallback_used
    assert "pip install 'alert-pipeline[model]'" in channel.messages[0].text
    assert len(await attempts(services.database, run)) == 2


async def test_nobody_listens_where_the_model_should_be(services: Services, channel: MemoryChannel) -> None:
    with model_server() as gone:
        pass
    services = with_model(services, gone)
    run = await page(services)
    assert run.intelligence_fallback_used
    assert "AI analysis unavailable: " in channel.messages[0].text
    assert KEY not in str(await rows(services.database, "select * from stage_execution"))


async def test_a_model_that_recovers_between_two_attempts_has_analyzed(services: Services, model: HttpReceiver) -> None:
    model.answer_next(503, said(GOOD))
    services = with_model(services, model)
    run = await page(services)
    assert not run.intelligence_fallback_used
    assert [status for status, _ in await attempts(services.database, run)] == ["retrying", "succeeded"]
