"""E-mail, through a real mail server on loopback."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from blocks.channels import email as email_module
from blocks.channels.email import EmailChannel
from orchestration.errors import DeliveryFailed
from tests.receivers import SmtpReceiver, smtp_receiver
from tests.test_channels import a_message


def a_channel(server: SmtpReceiver, **fields: Any) -> EmailChannel:
    own: dict[str, Any] = {
        "smtp_host": server.host,
        "smtp_port": server.port,
        "security": "none",
        "from_address": "Alerts <alerts@example.com>",
        "to_addresses": ["ops@example.com", "oncall@example.com"],
    }
    return EmailChannel(**(own | fields))


async def test_the_mail_has_text_and_html_and_everyone_gets_it():
    with smtp_receiver() as server:
        delivery = await a_channel(server).send(a_message())
        [mail] = server.mails
    assert mail.sender == "alerts@example.com"
    assert mail.recipients == ["ops@example.com", "oncall@example.com"]
    assert mail.message["Subject"] == "[CRITICAL] HighCPU on web-1 (production)"
    assert mail.message["From"] == "Alerts <alerts@example.com>"
    assert mail.message["X-Alert-Pipeline-Run"] == "run-1"
    text, html = mail.message.get_body(["plain"]), mail.message.get_body(["html"])
    assert text is not None
    assert html is not None
    assert "CPU above 95 %" in text.get_content()
    assert "<h2>HighCPU on web-1</h2>" in html.get_content()
    assert (delivery.provider, delivery.status) == ("smtp", "sent")
    assert delivery.provider_id == mail.message["Message-ID"]
    assert delivery.response == {"accepted": ["ops@example.com", "oncall@example.com"], "refused": {}}


async def test_a_retry_has_the_same_message_id_and_another_incident_another_thread():
    with smtp_receiver() as server:
        channel = a_channel(server)
        for key in ("run-1/notify/x", "run-1/notify/x", "run-2/notify/x"):
            await channel.send(a_message(idempotency_key=key))
        await channel.send(a_message(idempotency_key="run-3/notify/x", dedup_key="another"))
        mails = [mail.message for mail in server.mails]
    ids, threads = [mail["Message-ID"] for mail in mails], [mail["References"] for mail in mails]
    assert ids[0] == ids[1] != ids[2]
    assert threads[0] == threads[2] != threads[3]
    assert not any(mail["In-Reply-To"] for mail in mails)


async def test_later_mails_about_an_episode_answer_its_first_one_and_their_subject_says_what_is_true_now():
    with smtp_receiver() as server:
        channel = a_channel(server)
        first = await channel.send(a_message(title="[WARNING] Höhe on web-1"))
        worse = a_message(idempotency_key="2", title="[CRITICAL] Höhe on web-1", thread=first.thread)
        second = await channel.send(worse)
        again = a_message(idempotency_key="3", title="[WARNING] Höhe on web-1", thread=second.thread)
        third = await channel.send(again)
        over = a_message(idempotency_key="4", title="[RESOLVED] Höhe on web-1", thread=third.thread)
        await channel.send(over)
        one, two, *later = (mail.message for mail in server.mails)
    assert [mail["Subject"] for mail in (one, two, *later)] == [
        "[WARNING] Höhe on web-1",
        "[CRITICAL] Höhe on web-1",
        "Re: [WARNING] Höhe on web-1",
        "[RESOLVED] Höhe on web-1",
    ]
    assert {mail["In-Reply-To"] for mail in (two, *later)} == {one["Message-ID"]}
    assert two["References"] == f"{one['References']} {one['Message-ID']}"


async def test_the_thread_of_another_driver_is_none_of_mail():
    with smtp_receiver() as server:
        sent = await a_channel(server).send(a_message(thread="C0ONCALL 1735787045.000100 #oncall"))
        [mail] = server.mails
    assert mail.message["In-Reply-To"] is None
    assert sent.thread == f"{mail.message['Message-ID']} {mail.message['Subject']}"


async def test_a_title_cannot_add_headers_or_recipients():
    with smtp_receiver() as server:
        title = "[CRITICAL] x\r\nBcc: evil@example.com\r\n\r\nbody"
        await a_channel(server).send(a_message(title=title, trace_id="a\nBcc: evil@example.com"))
        [mail] = server.mails
    assert mail.message["Bcc"] is None
    assert mail.message["Subject"] == "[CRITICAL] x Bcc: evil@example.com body"
    assert "evil@example.com" not in mail.recipients


@given(st.text(), st.text())
def test_any_title_makes_a_mail(title: str, text: str):
    channel = EmailChannel(smtp_host="h", to_addresses=["a@example.com"])
    mail = channel.mail(a_message(title=title, text=text, html=text, run_id="run-1", trace_id=title))
    assert b"\nBcc:" not in mail.as_bytes()
    assert mail["Subject"] is not None


@pytest.mark.parametrize(
    ("reply", "retryable"),
    [("451 4.3.0 try later", True), ("421 closing", True), ("452 full", True), ("550 spam", False), ("554 no", False)],
)
async def test_a_four_hundred_is_worth_a_retry_and_a_five_hundred_is_not(reply: str, retryable: bool):
    with smtp_receiver(reply) as server:
        channel = a_channel(server)
        with pytest.raises(DeliveryFailed, match=reply[:3]) as failure:
            await channel.send(a_message())
        assert failure.value.retryable is retryable
        assert (await channel.send(a_message())).status == "sent"
        assert len(server.mails) == 1


async def test_a_refused_recipient_is_named_and_the_others_get_the_mail():
    with smtp_receiver(refuse={"ops@example.com": "550 no such user"}) as server:
        delivery = await a_channel(server).send(a_message())
        assert server.mails[0].recipients == ["oncall@example.com"]
    assert delivery.status == "sent"
    assert delivery.response == {"accepted": ["oncall@example.com"], "refused": {"ops@example.com": "550 no such user"}}


@pytest.mark.parametrize(("reply", "retryable"), [("550 no such user", False), ("450 greylisted", True)])
async def test_nobody_left_to_mail_to_is_a_failure(reply: str, retryable: bool):
    with smtp_receiver(refuse={"ops@example.com": reply}) as server:
        with pytest.raises(DeliveryFailed, match=f"every recipient: ops@example.com: {reply}") as failure:
            await a_channel(server, to_addresses=["ops@example.com"]).send(a_message())
        assert failure.value.retryable is retryable


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_the_login_is_used_and_a_refused_one_is_not_tried_again():
    with smtp_receiver(user=("bob", "hunter2hunter2")) as server:
        await a_channel(server, username="bob", password="hunter2hunter2").send(a_message())
        assert server.mails[0].user == "bob"
        with pytest.raises(DeliveryFailed, match="refused the login: 535") as failure:
            await a_channel(server, username="bob", password="wrong-password").send(a_message())
        assert not failure.value.retryable
        assert "wrong-password" not in str(failure.value)


async def test_a_server_that_is_not_there_is_worth_a_retry():
    with smtp_receiver() as server:
        channel = a_channel(server)
    with pytest.raises(DeliveryFailed, match="could not be reached: Connection refused") as failure:
        await channel.send(a_message())
    assert failure.value.retryable


async def test_a_server_without_starttls_is_not_spoken_to_in_the_clear():
    with smtp_receiver() as server:
        with pytest.raises(DeliveryFailed, match="STARTTLS") as failure:
            await a_channel(server, security="starttls").send(a_message())
        assert not failure.value.retryable
        assert server.mails == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + built.public_bytes(serialization.Encoding.PEM))
    return file


def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_tls_is_used_where_the_certificate_is_trusted(
    security: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
):
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(email_module, "tls_context", lambda: trusting)
    with smtp_receiver(tls=server_side(certificate), smtps=security == "tls") as server:
        await a_channel(server, security=security).send(a_message())
        assert len(server.mails) == 1


async def test_a_certificate_that_is_not_trusted_stops_the_mail_for_good(certificate: Path):
    with smtp_receiver(tls=server_side(certificate)) as server:
        with pytest.raises(DeliveryFailed, match="certificate is not trusted") as failure:
            await a_channel(server, security="starttls").send(a_message())
        assert not failure.value.retryable
        assert server.mails == []
