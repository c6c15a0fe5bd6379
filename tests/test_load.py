"""`alert-pipeline load`: many alerts in the words of any source, and their ends."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from orchestration.engine.run import Services
from orchestration.errors import Unavailable
from orchestration.local_key import load_local_key
from service.load import FLAPPING, Load, Shape, send
from tasks.ingest.sources import IN_CODE
from tests.api_helpers import serve_api
from tests.notify_helpers import rows


@pytest.mark.parametrize("source", IN_CODE)
def test_each_source_says_that_what_it_fired_has_ended(source: str) -> None:
    load = Load(source=source, count=3, mark="try")
    fired = [IN_CODE[source].parse(body["payload"]).alerts for body in load.pushes()]
    ended = [IN_CODE[source].parse(body["payload"]).alerts for body in load.ends()]

    assert {alert.status.value for alerts in fired for alert in alerts} == {"firing"}
    assert {alert.status.value for alerts in ended for alert in alerts} == {"resolved"}
    assert [[alert.fingerprint for alert in alerts] for alerts in fired] == [
        [alert.fingerprint for alert in alerts] for alerts in ended
    ]
    assert len({alerts[0].incident_key for alerts in fired}) == 3


def test_a_flapping_load_fires_and_ends_in_turn() -> None:
    load = Load(shape=Shape.FLAPPING, count=4 * FLAPPING, mark="try")

    said = [body["payload"]["status"] for body in load.pushes()]

    assert said == [*["firing"] * FLAPPING, *["resolved"] * FLAPPING] * 2
    assert len(list(load.ends())) == FLAPPING


async def test_what_is_sent_is_in_the_queue_and_what_is_refused_is_counted(services: Services) -> None:
    key = load_local_key(services.settings)
    load = Load(count=20, mark="try")
    async with serve_api(services.settings, services.database.url) as (host, port):
        url = f"http://{host}:{port}"
        sent = await send(load.pushes(), url=url, key=key, connections=4, rate=1000)
        refused = await send(load.pushes(), url=url, key="nobody", connections=4)

    assert (len(sent.seconds), sent.refused) == (20, Counter())
    assert 0 < sent.percentile(0.5) <= sent.percentile(0.99)
    assert refused.seconds == []
    assert [why[:4] for why in refused.refused] == ["401:"]
    stored = await rows(services.database, "select environment, options->>'test' as test from pipeline_run")
    assert stored == [{"environment": "load", "test": "true"}] * 20


async def test_nobody_who_answers_is_an_error_of_one_line() -> None:
    with pytest.raises(Unavailable, match=r"Nobody answers at http://127.0.0.1:1: is `alert-pipeline up` running"):
        await send(Load(count=2, mark="try").pushes(), url="http://127.0.0.1:1", key=None, connections=2)


def test_the_bodies_are_json_and_name_their_channel() -> None:
    (body,) = Load(count=1, mark="try", channel="memory").pushes()

    assert json.loads(json.dumps(body)) == body
    assert body["notify_channel"] == "memory"
