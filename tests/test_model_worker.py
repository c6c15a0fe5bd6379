"""A model that answers late, and a real worker: the page is not kept waiting, and its message has the answer later."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks.channels import SlackChannel
from orchestration.store.database import Database
from tests import vendors
from tests.model_helpers import Slow
from tests.model_server import answer_of, claim, model_server, said
from tests.notify_helpers import push, rows
from tests.receivers import http_receiver
from tests.vendors import SLACK_TOKEN
from tests.worker_helpers import NOWHERE, eventually, over, worker_settings, working

ANSWER = answer_of(claim("HighCPU fires on HOST_1", "alert-1", kind="effect", quotes=("HighCPU",), topic="cpu"))


async def test_a_late_answer_comes_into_the_message_by_a_run_of_the_queue(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlackChannel, "seconds_between_messages", 0.0)
    slow = Slow(said(ANSWER))
    with http_receiver() as unused, vendors.slack() as slack, model_server(judge=slow) as model:
        settings = worker_settings(
            home,
            unused,
            analyze_timeout_seconds=0.3,
            analysis_model="small-model",
            analysis_model_url=f"{model.url}/v1",
            analysis_model_key=SecretStr("sk-Kq83hHqPzR4vXw9TmNcY7LbD2"),
            notify_channels=("slack",),
            slack_bot_token=SecretStr(SLACK_TOKEN),
            slack_channel="#oncall",
            slack_api_url=slack.url,
        )
        async with working(settings, database.url, NOWHERE) as worker:
            run = await over(database, await push(worker.services))
            [post] = slack.posts
            assert (run.status.value, run.intelligence_fallback_used) == ("notified", False)
            assert "its answer follows here" in post.words
            slow.let_go.set()

            async def edited() -> bool:
                return "HighCPU fires on web-1" in post.words

            await eventually(edited, "the message to have the model's answer")
            assert "its answer follows here" not in post.words
            assert len(slack.posts) == 1
        [late] = await rows(database, "select * from pipeline_run where reason = 'analysis'")
        assert late["options"]["follows"] == run.run_id
        assert len(model.requests) == 1
