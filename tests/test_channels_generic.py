"""The generic webhook: what it sends, how it is shaped, and what it takes from the answer."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.channels.generic import GenericChannel
from blocks.channels.http import keep_connections
from orchestration.errors import DeliveryFailed
from tests.receivers import Answer, HttpReceiver, http_receiver
from tests.test_channels import a_message


def a_channel(receiver: HttpReceiver, **fields: Any) -> GenericChannel:
    return GenericChannel(endpoint=SecretStr(f"{receiver.url}/in?token=abc"), **fields)


async def test_the_body_is_the_message_and_the_key_is_the_same_at_every_try():
    with http_receiver(503, Answer.json({"id": "abc-1"})) as receiver:
        channel = a_channel(receiver)
        with pytest.raises(DeliveryFailed):
            await channel.send(a_message())
        delivery = await channel.send(a_message())
        first, second = receiver.requests
    assert (second.method, second.path) == ("POST", "/in?token=abc")
    assert second.json == a_message().model_dump(mode="json")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == "run-1/notify/oncall"
    assert second.headers["content-type"] == "application/json"
    assert second.headers["user-agent"] == "alert-pipeline"
    assert (delivery.provider_id, delivery.channel, delivery.response) == ("abc-1", "127.0.0.1", {"status": 200})


async def test_method_headers_and_template_are_the_operators():
    with http_receiver() as receiver:
        channel = a_channel(
            receiver,
            method="PUT",
            headers={"Authorization": "Bearer t0ken", "X-Team": "infra"},
            template='{"summary": {{ message.title | tojson }}, "sev": {{ message.severity | tojson }}}',
        )
        assert "t0ken" not in repr(channel)
        await channel.send(a_message(title='quote " here'))
        [request] = receiver.requests
    assert request.method == "PUT"
    assert request.headers["authorization"] == "Bearer t0ken"
    assert request.headers["x-team"] == "infra"
    assert request.json == {"summary": 'quote " here', "sev": "critical"}


async def test_an_alerts_text_is_never_a_template():
    with http_receiver() as receiver:
        channel = a_channel(receiver, template="{{ message.title }}", content_type="text/plain")
        await channel.send(a_message(title="{{ 7*7 }}"))
        assert receiver.requests[0].body == b"{{ 7*7 }}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ message.nothing }}", "no attribute 'nothing'"),
        ("{{ message.title }}", "does not give JSON"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
async def test_a_template_that_fails_is_not_tried_again(template: str, says: str):
    with http_receiver() as receiver:
        with pytest.raises(DeliveryFailed, match=says) as failure:
            await a_channel(receiver, template=template).send(a_message())
        assert not failure.value.retryable
        assert receiver.requests == []


async def test_a_redirect_is_not_followed():
    with http_receiver() as elsewhere, http_receiver(Answer(302, b"", {"Location": elsewhere.url})) as receiver:
        with pytest.raises(DeliveryFailed, match="302") as failure:
            await a_channel(receiver).send(a_message())
        assert not failure.value.retryable
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("body", "provider_id"),
    [
        (b'{"id": 42}', "42"),
        (b'{"id": null}', None),
        (b'{"id": {"a": 1}}', None),
        (b"[1]", None),
        (b"ok", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"[" * 50_000, None),
        (b'{"id": "' + b"x" * 100_000 + b'"}', None),
    ],
)
async def test_the_id_is_taken_from_an_answer_that_has_one(body: bytes, provider_id: str | None):
    with http_receiver(Answer(200, body)) as receiver:
        assert (await a_channel(receiver).send(a_message())).provider_id == provider_id


async def test_an_answer_that_breaks_off_after_its_status_is_a_delivery():
    with http_receiver(Answer(200, b"short", {"Content-Length": "50", "Connection": "close"})) as receiver:
        assert (await a_channel(receiver).send(a_message())).status == "sent"


async def test_any_key_fits_into_a_header():
    with http_receiver() as receiver:
        await a_channel(receiver).send(a_message(idempotency_key="run-1/nötify\r\nX: y/slack"))
        assert receiver.requests[0].headers["idempotency-key"] == "run-1/n%C3%B6tify%0D%0AX: y/slack"


async def test_a_process_that_stood_still_reads_the_answer_that_came_meanwhile():
    asked, answer = threading.Event(), threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            asked.set()
            answer.wait(10)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        channel = GenericChannel(endpoint=SecretStr(url), timeout_seconds=0.8)
        sending = asyncio.create_task(channel.send(a_message()))
        await asyncio.to_thread(asked.wait)
        answer.set()
        # As SIGSTOP does: nothing runs here until the limit has long passed.
        time.sleep(2)  # noqa: ASYNC251
        assert (await sending).status == "sent"


async def test_a_worker_keeps_its_connection_for_the_next_message_and_no_cookie():
    requests = list[bytes]()
    connections = list[asyncio.StreamWriter]()

    async def vendor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: (\d+)", head)
                requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
                writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=of-another-message\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(vendor, "127.0.0.1", 0) as server, keep_connections():
        port = server.sockets[0].getsockname()[1]
        for path in ("oncall", "team"):
            await GenericChannel(endpoint=SecretStr(f"http://127.0.0.1:{port}/{path}")).send(a_message())
    assert (len(requests), len(connections)) == (2, 1)
    assert b"of-another-message" not in requests[1]
