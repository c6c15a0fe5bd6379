"""Names and addresses have placeholders outside, the same ones for the same name, and come back as they were."""

from __future__ import annotations

import pytest

from orchestration.disguise import PLACEHOLDER, Disguise

PRIVATE = [
    ("db-77 is down", "db-77"),
    ("kafka-broker-3 lags", "kafka-broker-3"),
    ("server web01 answers slowly", "web01"),
    ("host: alpha is slow", "alpha"),
    ("api.internal.example.com:8443 refuses", "api.internal.example.com"),
    ("from 10.20.30.40:5432", "10.20.30.40"),
    ("from [2001:db8::77]:443", "2001:db8::77"),
    ("card aa:bb:cc:dd:ee:ff", "aa:bb:cc:dd:ee:ff"),
    ("ask jane.miller@example.com", "jane.miller@example.com"),
    ("deployed by Jane Miller today", "Jane Miller"),
    ("call +49 171 2345678 now", "+49 171 2345678"),
    ("tel: 555-0134", "555-0134"),
    ("phone (030) 123456", "(030) 123456"),
    ("call 555-123-4567", "555-123-4567"),
    ("user=jmiller failed", "jmiller"),
    ("/home/jmiller/core is large", "jmiller"),
    ("thanks @carl", "carl"),
    ("Contact Hans Peter Schmidt", "Hans Peter Schmidt"),
    ("IBAN DE89370400440532013000 bounced", "DE89370400440532013000"),
    ("from GB82 WEST 1234 5698 7654 32 TO us", "GB82 WEST 1234 5698 7654 32"),
    ("card 4111 1111 1111 1111 12/27", "4111 1111 1111 1111"),
    ("5500-0055-5555-5559 declined", "5500-0055-5555-5559"),
    ("amex 378282246310005", "378282246310005"),
    ("see status.firma.de", "firma.de"),
]


@pytest.mark.parametrize(("text", "private"), PRIVATE)
def test_what_is_private_is_replaced_and_comes_back(text: str, private: str) -> None:
    disguise = Disguise()
    hidden = disguise.hide(text)
    assert private not in hidden
    assert PLACEHOLDER.search(hidden)
    assert disguise.restore(hidden) == text


@pytest.mark.parametrize(
    "text",
    [
        "disk is critical: /var/lib is 98.5 % full, 1234567890 bytes",
        "it was like this on 2026-11-27 10:00 UTC, until 2026-11-27T10:05:00Z",
        "postgresql.service is failed, see nginx.conf and app.log",
        "node_load5 is 31.2, normally 0.5 to 2, p99 of http2 over utf-8",
        "check-2 and alert-1 agree, v2.31 of sha256",
        "4398046511104 bytes, 4111111111111112 requests, at 1732799999000000000 ns",
    ],
)
def test_what_a_model_needs_to_understand_stays(text: str) -> None:
    assert Disguise().hide(text) == text


def test_a_name_has_one_placeholder_wherever_it_stands_also_before_it_is_introduced() -> None:
    disguise = Disguise(hosts=["db-77"])
    first, second, third = disguise.hide_all(
        ["Alpha fails, says Jane Miller", "host=alpha on DB-77", "mail jane.miller@example.com about db-77"]
    )
    assert (first, second) == ("HOST_2 fails, says PERSON_1", "host=HOST_2 on HOST_1")
    assert third == "mail EMAIL_1 about HOST_1"


def test_a_known_host_is_replaced_with_its_domain() -> None:
    disguise = Disguise(hosts=["db-77"], people=["ada"])
    hidden = disguise.hide("db-77.intern.firma.de fails, db-77.log says; ada.example.com is Ada's")
    assert "firma" not in hidden
    assert hidden == "HOST_1 fails, HOST_2.log says; HOST_3 is PERSON_1's"
    assert disguise.restore(hidden) == "db-77.intern.firma.de fails, db-77.log says; ada.example.com is Ada's"


def test_secrets_are_hidden_and_never_come_back() -> None:
    disguise = Disguise()
    hidden = disguise.hide("password=hunter2-Secret9 on db-77")
    assert disguise.restore(hidden) == "password=[redacted] on db-77"


def test_a_placeholder_that_an_alert_writes_is_nobodys_name() -> None:
    disguise = Disguise(hosts=["db-77"])
    hidden = disguise.hide("HOST_1 is db-77")
    assert hidden == "WORD_1 is HOST_1"
    assert disguise.restore(hidden) == "HOST_1 is db-77"
    assert disguise.restore("HOST_9 and host_1") == "HOST_9 and db-77"
