"""Alerts by mail: the mail door before a real API, and what it makes of mails."""

from __future__ import annotations

import asyncio
import json
import smtplib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.channels.email import EmailChannel
from orchestration.alert import AlertStatus, Severity
from orchestration.errors import BadInput, BadSetting
from orchestration.local_key import load_local_key
from orchestration.settings import Settings
from orchestration.store.database import Database
from service.mail import door as mail_server
from service.mail.door import MailDoor, Recipient, networks_of, serve_mail
from service.mail.reading import read_mail
from service.sending import Door
from tasks.ingest.sources import SOURCES, parse_push
from tasks.ingest.sources.subject import read_subject
from tests.api_helpers import serve_api
from tests.notify_helpers import rows
from tests.test_channels import a_message
from tests.test_sources_properties import assert_sentence, assert_storable

TO = "alerts@example.com"
RECIPIENTS = [Recipient.of(TO), Recipient.of("lab@example.com=lab"), Recipient.of("*@nagios.example.com=dc1/nagios")]


def mail(subject: str, text: str = "Look at it.", **headers: str) -> EmailMessage:
    """A mail as a machine sends it."""
    written = EmailMessage(policy=SMTP)
    written["Subject"] = subject
    for name, value in {
        "From": "Monitor <nagios@monitor.example.com>",
        "To": TO,
        "Date": "Sat, 14 Mar 2026 01:00:00 +0000",
        "Message-ID": "<1@monitor.example.com>",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }.items():
        written[name] = value
    written.set_content(text)
    return written


def read(raw: bytes | EmailMessage, **envelope: str) -> Any:
    content = raw if isinstance(raw, bytes) else raw.as_bytes()
    return read_mail(content, **{"sender": "a@example.com", "recipient": TO, "tag": "", **envelope})


def alert_in(raw: bytes | EmailMessage, **envelope: str) -> Any:
    (alert,) = parse_push(read(raw, **envelope).body).alerts
    return alert


@asynccontextmanager
async def open_door(settings: Settings, url: str, **options: Any) -> AsyncGenerator[int]:
    """The mail door before an API at `url`. Yields its port."""
    given = {"recipients": RECIPIENTS, "allowed": [], "max_bytes": 200_000, **options}
    door = MailDoor(door=Door(url=url, api_key=load_local_key(settings)), **given)
    ended, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_mail(door, host="127.0.0.1", port=0, ended=ended, ready=lambda _, number: port.set_result(number))
    )
    try:
        yield await port
    finally:
        ended.set()
        await serving


@pytest.fixture
async def port(settings: Settings, database: Database) -> AsyncGenerator[int]:
    async with (
        serve_api(settings, database.url) as (host, number),
        open_door(settings, f"http://{host}:{number}") as own,
    ):
        yield own


def delivered(port: int, message: EmailMessage | bytes, *to: str, sender: str = "a@example.com") -> tuple[int, str]:
    """Send a mail as a mail server does. Returns the answer."""
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("client.example.com")
        client.mail(sender)
        for one in to or (TO,):
            code, said = client.rcpt(one)
            if code != 250:
                return code, said.decode()
        code, said = client.data(message if isinstance(message, bytes) else message.as_bytes())
        return code, said.decode()


async def send(port: int, message: EmailMessage | bytes, *to: str, **options: str) -> tuple[int, str]:
    return await asyncio.to_thread(delivered, port, message, *to, **options)


async def alerts(database: Database) -> list[Any]:
    return await rows(
        database, "select source, environment, payload->'alerts'->0 as alert from pipeline_run order by created_at, id"
    )


async def test_a_problem_and_its_recovery_are_one_alert(port: int, database: Database) -> None:
    began = mail(
        "** PROBLEM Service Alert: db-1/Disk is CRITICAL **", "DISK CRITICAL - / 1%\n\nhttps://m.example.com/7"
    )
    ended = mail("** RECOVERY Service Alert: db-1/Disk is OK **", Message_ID="<2@monitor.example.com>")

    assert (await send(port, began, "alerts+disk@example.com"))[0] == 250
    assert (await send(port, ended, "Alerts+Disk@Example.COM"))[0] == 250

    first, last = await alerts(database)
    assert (first["source"], first["environment"]) == ("mail", "production")
    assert (first["alert"]["title"], first["alert"]["severity"]) == ("Service Alert: db-1/Disk", "critical")
    assert (first["alert"]["status"], last["alert"]["status"]) == ("firing", "resolved")
    assert first["alert"]["labels"] == {"host": "db-1", "sender": "nagios@monitor.example.com", "tag": "disk"}
    assert first["alert"]["links"] == {"source": "https://m.example.com/7"}
    assert first["alert"]["description"].startswith("DISK CRITICAL")
    assert first["alert"]["fingerprint"] == last["alert"]["fingerprint"]
    assert first["alert"]["started_at"].startswith("2026-03-14T01:00:00")


async def test_a_mail_that_comes_twice_is_one_push(port: int, database: Database) -> None:
    answers = [await send(port, mail("Disk full")), await send(port, mail("Disk full"))]
    careless = await send(port, mail("Disk empty"))  # the same Message-ID, and another mail

    assert [code for code, _ in answers] == [250, 250]
    assert answers[0] == answers[1] != careless
    assert len(await alerts(database)) == 2


async def test_the_address_says_where_it_happens(port: int, database: Database) -> None:
    told = mail("Disk full")
    assert (await send(port, told, "lab@example.com", TO, "any+x@nagios.example.com"))[0] == 250
    assert {(run["source"], run["environment"]) for run in await alerts(database)} == {
        ("mail", "lab"),
        ("mail", "production"),
        ("nagios", "dc1"),
    }
    code, said = await send(port, told, "nobody@example.com")
    assert (code, "No alerts are accepted" in said) == (550, True)


@pytest.mark.parametrize("kind", ["attachment", "text"])
async def test_json_in_a_mail_is_read_as_a_webhook(port: int, database: Database, kind: str) -> None:
    body = json.dumps(SOURCES["alertmanager"].sample("x"))
    told = mail("See the attachment", body if kind == "text" else "text")
    if kind == "attachment":
        told.add_attachment(body.encode(), maintype="application", subtype="json", filename="alert.json")
    assert (await send(port, told))[0] == 250
    (run,) = await alerts(database)
    assert run["source"] == "alertmanager"


async def test_lmtp_has_an_answer_for_each_recipient(port: int, database: Database) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    commands = ["LHLO mx.example.com", "MAIL FROM:<a@example.com>", f"RCPT TO:<{TO}>", "RCPT TO:<x@example.org>"]
    commands += ["RCPT TO:<lab@example.com>", "DATA"]
    answers = [await reader.readline()]
    for command in commands:
        writer.write(f"{command}\r\n".encode())
        answers.append(line := await reader.readline())
        while line[3:4] == b"-":
            answers[-1] = line = await reader.readline()
    writer.write(mail("Disk full").as_bytes() + b".\r\n")
    last = [await reader.readline(), await reader.readline()]
    writer.close()

    assert [int(answer[:3]) for answer in answers] == [220, 250, 250, 250, 550, 250, 354]
    assert [answer[:3] for answer in last] == [b"250", b"250"]
    assert {run["environment"] for run in await alerts(database)} == {"production", "lab"}


async def test_a_mail_stays_with_its_sender_until_it_is_stored(settings: Settings, database: Database) -> None:
    load_local_key(settings)
    async with open_door(settings, "http://127.0.0.1:9") as port:
        code, said = await send(port, mail("Disk full"))
    assert (code, "try again" in said) == (451, True)

    async with serve_api(settings, database.url) as (host, number):
        wrong = MailDoor(
            door=Door(url=f"http://{host}:{number}", api_key="apk_wrong"),
            recipients=RECIPIENTS,
            allowed=[],
            max_bytes=9,
        )
        assert (await wrong.deliver(mail("Disk full").as_bytes(), "a@example.com", TO))[:3] == "451"
        async with open_door(settings, f"http://{host}:{number}") as port:
            assert (await send(port, mail("Disk full")))[0] == 250
    assert len(await alerts(database)) == 1


async def test_a_mail_that_is_too_large_is_refused(port: int, database: Database) -> None:
    assert (await send(port, mail("Disk full", "x\n" * 200_000)))[0] == 552
    assert (await send(port, b"Subject: long line\r\n\r\n" + b"x" * 150_000 + b"\r\n"))[0] == 250
    assert len(await alerts(database)) == 1


OURS = EmailChannel(smtp_host="localhost", from_address=TO, to_addresses=[TO]).mail(a_message())
"""A mail of the e-mail channel."""


@pytest.mark.parametrize(
    ("message", "sender", "reason"),
    [
        (OURS, "a@example.com", "alert-pipeline itself"),
        (mail("Re: Disk", References=OURS["References"]), "ada@example.com", "it answers"),
        (mail("Out of office", Auto_Submitted="auto-replied"), "a@example.com", "automatic reply"),
        (mail("Undelivered Mail", From="MAILER-DAEMON@mx.example.com"), "", "delivery of another mail"),
    ],
)
async def test_mails_that_would_go_round_in_circles_are_no_alerts(
    port: int, database: Database, message: EmailMessage, sender: str, reason: str
) -> None:
    code, said = await send(port, message, sender=sender)
    assert (code, reason in said) == (250, True)
    assert await alerts(database) == []


async def test_who_may_not_send_is_refused(settings: Settings) -> None:
    load_local_key(settings)
    async with open_door(settings, "http://127.0.0.1:9", allowed=networks_of(["10.1.0.0/16"])) as port:
        reader, _ = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.read()).startswith(b"554")


async def test_there_are_not_too_many_connections(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    load_local_key(settings)
    monkeypatch.setattr(mail_server, "MAX_CONNECTIONS", 1)
    async with open_door(settings, "http://127.0.0.1:9") as port:
        first, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await first.readline()).startswith(b"220")
        second, _ = await asyncio.open_connection("127.0.0.1", port)
        assert (await second.read()).startswith(b"421")
        writer.write(b"AUTH PLAIN eA==\r\nHELO x\r\n" + b"y" * 2_000 + b"\r\nQUIT\r\n")
        assert b"221" in await first.read()


@pytest.mark.parametrize(
    ("options", "host", "problem"),
    [
        ({"recipients": []}, "127.0.0.1", "without a recipient"),
        ({}, "0.0.0.0", "--allow"),
        ({}, "", "--allow"),
        ({}, "127.0.0.1.invalid", "--allow"),
    ],
)
async def test_the_door_does_not_open_for_everybody(options: Any, host: str, problem: str) -> None:
    given = {"recipients": RECIPIENTS, "allowed": [], "max_bytes": 9, **options}
    with pytest.raises(BadSetting, match=problem):
        await serve_mail(
            MailDoor(door=Door(url="http://x"), **given),
            host=host,
            port=0,
            ended=asyncio.Event(),
            ready=lambda *_: None,
        )


@pytest.mark.parametrize("written", ["alerts", "@example.com", "a b@example.com", "a@example.com=x=y", ""])
def test_a_recipient_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(BadSetting, match="is not written as"):
        Recipient.of(written)


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(BadSetting, match="--allow 'here': expected a host"):
        networks_of(["10.1.0.0/16", "here"])


@pytest.mark.parametrize(
    ("began", "ended", "name", "severity"),
    [
        ("** PROBLEM Host Alert: a is DOWN **", "** RECOVERY Host Alert: a is UP **", "Host Alert: a", "critical"),
        ("[PROBLEM] Disk on db-1 is WARNING!", "[RECOVERY] Disk on db-1 is OK!", "Disk on db-1", "warning"),
        ("Problem: Disk is 91% full", "Resolved in 5m 3s: Disk is 12% full", "Disk is 91% full", "warning"),
        ("[FIRING:2] HighCPU (db-1 critical)", "[RESOLVED] HighCPU (db-1 critical)", "HighCPU (db-1)", "critical"),
        ('ALARM: "orders" in EU (Ireland)', 'OK: "orders" in EU (Ireland)', '"orders" in EU (Ireland)', "warning"),
        ("Monitor is DOWN: Shop", "Monitor is UP: Shop", "Monitor: Shop", "critical"),
        ("DOWN | nightly", "UP | nightly", "nightly", "critical"),
        ("result for db-1: FAILURE", "result for db-1: SUCCESS", "result for db-1", "critical"),
        ("Re: [CRITICAL] Disk full", "AW: [OK] Disk full", "Disk full", "critical"),
        ("[prod] [CRITICAL] Disk full", "[prod] [OK] Disk full", "[prod] Disk full", "critical"),
        ("Backup of shop failed", "Backup of shop successful", "Backup of shop", "critical"),
        ("CRITICAL", "OK", "CRITICAL", "critical"),
        ("PROBLEM pump7", "RECOVERY pump7", "pump7", "warning"),
        ("CRITICAL pump 9", "OK pump 9", "pump 9", "critical"),
        ("vzdump backup status (pve-1): backup failed: no space", "vzdump backup status (pve-1): backup successful",
         "vzdump backup status (pve-1): backup failed: no space", "critical"),
    ],
)  # fmt: skip
def test_the_words_of_a_subject(began: str, ended: str, name: str, severity: str) -> None:
    first, last = alert_in(mail(began)), alert_in(mail(ended))

    assert (first.status, last.status) == (AlertStatus.FIRING, AlertStatus.RESOLVED)
    assert (first.name, first.severity.value) == (name, severity)
    assert (first.fingerprint, first.incident_key) == (last.fingerprint, last.incident_key)


@pytest.mark.parametrize(
    "subject",
    [
        *("Backup not successful", "Disk is not OK", "Issue not yet fixed", "Server is backing up", "Will be restored"),
        *("Failed to be cleared", "[OK to ignore] disk full", "Cron <root@db-1> /bin/backup", "Success rate below 90%"),
        *("DegradedArray event on /dev/md0:db-1", "[Error] Backup OK?", "Unable to get back online", "Follow up"),
        *("PROBLEM disk check: ok", "OK to ignore", "RECOVERY of db-1 failed", "Normal is far away", "UP until now: x"),
    ],
)
def test_what_is_not_clearly_an_end_fires(subject: str) -> None:
    assert read_subject(subject).status is AlertStatus.FIRING


def test_two_things_are_two_alerts() -> None:
    jobs = [alert_in(mail(f"Job {number} failed")).fingerprint for number in (4711, 4712)]
    senders = [alert_in(mail("Disk full", From=f"root@{host}.example.com")) for host in ("a", "b")]

    assert len({*jobs, *(alert.fingerprint for alert in senders)}) == 4
    assert [alert.host for alert in senders] == ["a.example.com", "b.example.com"]
    assert alert_in(mail("x", X_Alert_ID="7")).fingerprint == alert_in(mail("y", X_Alert_ID="7")).fingerprint


def test_headers_count_before_the_subject() -> None:
    alert = alert_in(mail("Disk OK", X_Severity="info", X_Status="firing", X_Host="db-1"))
    assert (alert.severity, alert.status, alert.host) == (Severity.INFO, AlertStatus.FIRING, "db-1")
    assert alert_in(mail("Disk full", X_Priority="1 (Highest)")).severity is Severity.CRITICAL
    assert parse_push(read(mail("** ACKNOWLEDGEMENT Service Alert: db-1/Disk is CRITICAL **")).body).ignored


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (
            "<head><style>p {}</style></head><p>Disk <b>/</b> is&nbsp;full</p><script>x('<p>')</script>",
            "Disk / is full",
        ),
        ("Disk<br>\n is <!-- <p>not</p> --> full<td>1 &lt; 2</td>", "Disk\nis full 1 < 2"),
        ("5 < 6 <!DOCTYPE x>and</TITLE > <style>never closed <p>x", "5 < 6 and"),
    ],
)
def test_html_becomes_text(page: str, text: str) -> None:
    told = mail("Disk full")
    told.set_content(page, "html")
    assert alert_in(told).description == text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe\x00",
        b"Subject: =?utf-8?b?!!!?= =?x?q?y?=\r\n\r\nx",
        b"Subject: \xd6l\r\nFrom: <<<>@@\r\nDate: never\r\n\r\n\xd6l",
        b"Subject: a\r\n b\r\n\tc: d\r\n\r\nx",
        b'Content-Type: text/plain; charset="no such"\r\nSubject: x\r\n\r\ny',
        b"Content-Type: text/plain; charset=undefined\r\nSubject: x\r\n\r\ny",
        b"Content-Type: multipart/mixed\r\nSubject: x\r\n\r\ny",
        b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\nSubject: x\r\n\r\n***",
        b"Content-Type: text/plain; name*=x''%ff\r\nContent-Transfer-Encoding: x-uuencode\r\nSubject: x\r\n\r\nbegin",
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(3_000)),
        b"Subject: x\r\n" + b"X-Filler: y\r\n" * 20_000 + b"\r\nz",
        b"Subject: " + b"a" * 1_000_000 + b"\r\n\r\nz",
        b"Subject: x\r\nContent-Type: text/html\r\n\r\n" + b"<![" * 20_000,
        b'Subject: x\r\nContent-Type: application/json\r\n\r\n{"a": ' + b"[" * 50_000,
        # Python's own functions for these need minutes each.
        b"Subject: x\r\nContent-Type: text/html\r\n\r\n" + b"<a " * 100_000,
        b"Subject: " + b"=?utf-8?b?YQ==?= " * 50_000 + b"\r\n\r\nz",
        b"Subject: x\r\nContent-Type: text/plain; " + b"a=b; " * 100_000 + b"\r\n\r\nz",
    ],
    ids=range(18),
)
def test_a_broken_mail_is_an_alert_too(raw: bytes) -> None:
    alert = alert_in(raw)
    assert alert.firing
    assert_storable(alert)


@given(raw=st.binary(max_size=400) | st.text(max_size=200).map(lambda text: f"Subject: {text}\n\n{text}".encode()))
def test_whatever_a_mail_has_it_is_read(raw: bytes) -> None:
    found = read(raw)
    json.dumps(found.body)
    try:
        for alert in parse_push(found.body).alerts:
            assert_storable(alert)
    except BadInput as error:
        assert_sentence(str(error))
