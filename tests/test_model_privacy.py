"""What a model never sees: secrets, people, and the names of this installation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from orchestration.engine.run import Services
from orchestration.policy.active import ActivePolicy
from orchestration.policy.matchers import parse_matchers
from orchestration.policy.model import Policy
from orchestration.store.actions import Actor, Via
from orchestration.store.silences import add_silence
from tests.conftest import MemoryChannel
from tests.model_helpers import GOOD, page, with_model
from tests.model_server import (
    answer_of,
    claim,
    said,
    texts_of,
)
from tests.notify_helpers import with_settings
from tests.receivers import HttpReceiver


async def test_no_secret_and_no_personal_data_leave_and_the_page_has_the_names(
    services: Services, channel: MemoryChannel, model: HttpReceiver
) -> None:
    private = (
        "db-77", "db77.internal.example.com", "10.20.30.40", "2001:db8::77", "Jane Miller", "jane.miller@example.com",
        "+49 171 2345678", "hunter2-Secret9", "ghp_0123456789abcdefABCDEF0123456789abcd",
    )  # fmt: skip
    model.answer_next(said(GOOD))
    services = with_model(services, model)
    await page(
        services,
        description=(
            "DiskFull on db77.internal.example.com (10.20.30.40, 2001:db8::77), call Jane Miller "
            "jane.miller@example.com +49 171 2345678, password=hunter2-Secret9"
        ),
        annotations={"token": "ghp_0123456789abcdefABCDEF0123456789abcd", "note": "Jane Miller knows db-77"},
        labels={"owner": "Jane Miller", "instance": "db-77:9100"},
    )
    [request] = model.requests
    everything = texts_of(request) + str(request.headers | {"authorization": ""})
    assert [one for one in private if one.casefold() in everything.casefold()] == []
    assert "HOST_1" in everything
    assert "db-77" in channel.messages[0].text


@dataclass
class OnePolicy:
    """A policy with a person."""

    async def active(self) -> ActivePolicy:
        return ActivePolicy(
            policy=Policy.model_validate({"people": {"ada.byron": {"contacts": ["memory"]}}}, strict=False)
        )


async def test_whom_policy_and_records_know_and_the_domains_of_the_settings_do_not_leave(
    services: Services, channel: MemoryChannel, model: HttpReceiver
) -> None:
    model.answer_next(said(answer_of(claim("PERSON_1 knows the disk", "alert-1", kind="effect", quotes=("disk",)))))
    services = with_settings(with_model(services, model), api_public_url="https://alerts.firma.sh/pipeline")
    services = replace(services, policies=OnePolicy())
    async with services.database.transaction() as tx:
        until = timedelta(hours=1)
        await add_silence(tx, parse_matchers("alertname=X"), Actor(by="wilma", via=Via.CLI), until=until)
    await page(
        services,
        description=(
            "Wilma and Ada Byron know of the disk of the shop at firma.sh. Ask ada.byron; "
            "pay to DE89 3704 0044 0532 0130 00 with 4111 1111 1111 1111"
        ),
    )
    [request] = model.requests
    asked = request.json["messages"][-1]["content"]
    assert not [one for one in ("wilma", "byron", "firma", "0532", "1111") if one in asked.casefold()]
    assert " know of the disk of the shop at HOST_" in asked
