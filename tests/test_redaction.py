"""Redaction removes all secrets, and no input makes it fail or slow."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from bench.redaction import false_alarms, missed
from bench.redaction_corpus import harmless, planted
from orchestration.redaction import MAX_ITEMS, MAX_TEXT, REDACTED, is_secret, one_line, redact, redact_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
SECRET = "s3cr3t-Value-91"


@pytest.mark.parametrize(
    "key",
    [
        *("password", "PASSWD", "db_password", "secret", "clientSecret", "client_secret", "token", "access-token"),
        *("bot_token", "api_key", "apikey", "X-API-Key", "Authorization", "cookie", "Set-Cookie", "credential"),
        *("credentials", "private_key", "integration_key", "routing_key", "webhook_url", "SLACK_WEBHOOK_URL"),
    ],
)
def test_a_key_that_names_a_secret_is_recognised(key: str):
    assert is_secret(key, SECRET)
    assert redact({key: SECRET}) == {key: REDACTED}


@pytest.mark.parametrize(
    "key",
    [
        *("author", "tokens_used", "max_tokens", "idempotency_key", "dedup_key", "incident_key", "groupKey"),
        *("keyboard", "url", "secretary"),
    ],
)
def test_a_key_that_only_looks_like_one_is_not(key: str):
    assert redact({key: "value", "n": {key: 7}}) == {key: "value", "n": {key: 7}}


def test_the_values_of_a_list_and_the_value_beside_a_name_are_judged_by_that_name():
    assert redact({"secrets": [SECRET, "shop-tls"], "tokens": [512, SECRET]}) == {
        "secrets": [REDACTED, "shop-tls"],
        "tokens": [512, REDACTED],
    }
    env = [{"name": "DB_PASSWORD", "value": "hunter"}, {"name": "LOG_LEVEL", "value": "debug"}]
    assert redact({"env": env}) == {"env": [{"name": "DB_PASSWORD", "value": REDACTED}, env[1]]}


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization=Basic {SECRET}; more",
        f"sent Bearer {SECRET}.",
        "sent Basic dXNlcjpzM2NyM3QtVmFsdWUtOTE=",
        f"password={SECRET}",
        f"login failed: user=bob: password={SECRET}",
        f"DB_PASSWORD: {SECRET}, next",
        f'{{"client_secret": "{SECRET}", "a": 1}}',
        f'{{\\"api_key\\": \\"{SECRET}\\"}}',
        f"{{'token': '{SECRET} with spaces'}}",
        f'Parameters: {{"user"=>{{"name"=>"bob", "password"=>"{SECRET}"}}}}',
        f"'password' => '{SECRET}'",
        f"if password == {SECRET}",
        f'DB_PASSWORD="a {SECRET}"',
        f"password=two {SECRET}",
        f"passw0rd={SECRET}",
        f"密码：{SECRET}",
        f"password%3A{SECRET}",
        f"password\xa0=\xa0{SECRET}",
        f"http://am/#/silences/new?filter=%7Bnote%3D%22ghp_s3cr3t{'a1B2' * 8}%22%7D",
        f"https://sso/login?next=https%253A%252F%252Fbob%253A{SECRET}%2540db%252Fx",
        f"SET PASSWORD FOR bob = '{SECRET}'",
        f"api key: {SECRET}",
        "the password is p@s3cr3tword, as ever",
        f"mysqldump --password {SECRET} --host db",
        f"postgresql://app:{SECRET}@db/app",
        f"postgresql://app:p@{SECRET}@db/app",
        f"https://example.com/?a=1&access_token={SECRET}&b=2",
        f"https://bucket.example.com/?X-Amz-Signature={SECRET}",
        f"https://hooks.slack.com/services/T0000/B0000/{SECRET}",
        f"https://discord.com/api/webhooks/1/{SECRET}",
        f"https://acme.webhook.office.com/webhookb2/{SECRET}/IncomingWebhook/x",
        f"https://api.telegram.org/bot{SECRET}/sendMessage",
        f"Cookie: a=b; session={SECRET}",
        "token was xoxb-111111-222222-s3cr3t-Value-91",
        f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\nMIIE{SECRET}",
    ],
)
def test_a_secret_in_a_text_is_taken_out(text: str):
    clean = redact_text(text)
    assert "s3cr3t" not in clean
    assert "dXNlcjpz" not in clean
    assert REDACTED in clean
    assert redact_text(clean) == clean
    assert "s3cr3t" not in json.dumps(redact({"note": [text]}))


@pytest.mark.parametrize(
    "token",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 10,
        "xapp-1-A0123-456-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_a_bare_token_is_taken_out(token: str):
    assert redact_text(f"seen {token} in the log") == f"seen {REDACTED} in the log"


@pytest.mark.parametrize(
    "text",
    [
        "Basic connectivity check failed",
        "bearer token missing",
        "author: Bob, tokens_used: 5",
        "Disk /dev/sda1 at 95 %, host=web-1:9100",
        "https://grafana.example.com/d/abc?orgId=1&from=now-1h",
        "ratio 3:2, see http://example.com:8080/path",
        "PWD=/var/lib/app OLDPWD=/home/deploy",
        "routing_key=orders.created is unroutable",
        "/etc/passwd: modified by root",
        "imagePullSecrets: regcred",
        "tokens: 12/100",
        "csrf: token mismatch",
        "enter password: timeout after 30s",
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/db-AbCdEf",
        "http://p/graph?g0.expr=up%7Bjob%3D%22auth%22%7D&next=%2Fa%2520b",
    ],
)
def test_an_honest_text_stays_as_it_is(text: str):
    assert redact_text(text) == text


def test_what_json_cannot_hold_becomes_text_and_secrets_of_pydantic_are_hidden():
    class Colour(StrEnum):
        RED = "red"

    class Login(BaseModel):
        user: str
        password: SecretStr

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    moment = datetime(2026, 1, 2, tzinfo=UTC)
    clean = redact(
        {"at": moment, "raw": b"1234", "nan": float("nan"), "colour": Colour.RED, "tuple": (1, 2), "odd": Hostile()}
        | {"login": Login(user="bob", password=SecretStr(SECRET)), "pin": SecretStr(SECRET), 5: "five"}
    )
    assert clean == {
        "at": "2026-01-02 00:00:00+00:00",
        "raw": "[4 bytes]",
        "nan": "nan",
        "colour": "red",
        "tuple": [1, 2],
        "odd": "[Hostile]",
        "login": {"user": "bob", "password": REDACTED},
        "pin": REDACTED,
        "5": "five",
    }


def test_what_is_no_secret_under_a_secret_key_is_kept():
    assert redact({"password": None, "token": "", "secret": True}) == {"password": None, "token": "", "secret": True}


def test_too_deep_too_long_and_too_much_are_named_as_such():
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "too deep" in json.dumps(redact(deep))
    assert redact("x" * 100_000) == "x" * MAX_TEXT + f"… [{100_000 - MAX_TEXT} more characters]"
    many = redact(list(range(MAX_ITEMS * 2)))
    assert isinstance(many, list)
    assert many[-1] == "[truncated]"
    assert len(json.dumps(redact([["y" * 10_000] * 1000] * 1000))) < 1_000_000


def test_a_secret_across_the_cut_does_not_show():
    text = "x " * ((MAX_TEXT - 20) // 2) + "password=" + SECRET
    assert "s3cr" not in redact_text(text)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "a",
            "eyJ",
            "eyJaaaa.",
            "password=",
            "a://",
            '\\"',
            "?a=",
            "-----BEGIN PRIVATE KEY-----",
            "curl ",
            "curl -u a",
        ),
        *(
            "token ",
            "a://a:",
            "password: a ",
            "a=(",
            "aA",
            "password=aA",
            "key=a-",
            "a%3D",
            "é",
            "ab.",
            "name: a value",
        ),
    ],
)
def test_a_hostile_text_of_five_megabytes_costs_less_than_a_second(piece: str):
    text = (piece * 5_000_000)[:5_000_000]
    started = time.process_time()
    redact_text(text)
    redact({"note": text})
    assert time.process_time() - started < 1.0


def test_of_the_corpus_nearly_all_secrets_are_taken_out_and_nearly_nothing_else():
    secrets, texts = planted(), harmless()
    assert min(len(secrets), len(texts)) >= 150
    assert len({plant.shape for plant in secrets}) >= 60
    assert len(missed(secrets)) <= 0.02 * len(secrets), missed(secrets)
    assert len(false_alarms(texts)) <= 0.02 * len(texts), false_alarms(texts)


def test_what_stands_before_a_secret_stays():
    """A page stays readable: the value is hidden, and not the sentence before it."""
    texts = [plant.value for plant in planted() if isinstance(plant.value, str) and plant.value.startswith("pay-7:")]
    assert [text for text in texts if not redact_text(text).startswith("pay-7: ")] == []
    assert redact_text("pay-7: login failed: user=bob: DB_PASSWORD=" + SECRET).endswith(
        "user=bob: DB_PASSWORD=[redacted]"
    )


def test_a_page_says_which_secret_expires():
    labels = {"secret_namespace": "shop", "secret_name": "shop-tls", "secret_key": "tls.crt", "secret": "elektra-smtp"}
    assert redact(labels) == labels
    for text in (
        "secret: shop-tls in namespace shop expires in 3 days",
        "Authorization: 503 from auth-api for 5 minutes, checkout is affected",
        "credentials: job queue is stuck since 02:00",
        '{}:{secret_name="shop-tls"}',
        "http://am.example.com/#/silences/new?filter=%7Bsecret%3D%22elektra-smtp%22%2C%20secret_key%3D%22tls.crt%22%7D",
    ):
        assert one_line(text, 200) == text


@given(JSON)
def test_any_json_value_comes_out_as_json_that_postgresql_takes(value: Any):
    clean = json.dumps(redact(value), allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in clean
    clean.encode()


@given(st.text(alphabet="abAB01 .:=/\"'\\@?&-\n"), st.sampled_from(["password", "api_key", "token", "clientSecret"]))
def test_a_value_under_a_secret_key_never_shows(noise: str, key: str):
    value = {"before": noise, "list": [{key: SECRET}, {"inner": {key: [SECRET]}}]}
    assert SECRET not in json.dumps(redact(value))
    assert SECRET not in redact_text(json.dumps(value["list"]))


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str):
    once = redact_text(text)
    assert redact_text(once) == once


@given(st.text(), st.integers(min_value=1, max_value=80))
def test_one_line_is_one_visible_line(text: str, limit: int):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable() or all(char.isprintable() or char.isspace() or not char.isascii() for char in line)
    assert len(line.splitlines()) <= 1


def test_escape_sequences_and_reversed_text_are_taken_out_of_a_line():
    assert one_line("\x1b[31mred\x1b[0m \x1b]0;title\x07web\u202e-1\r\nnext\x00", 80) == "red web-1 next"
    assert SECRET not in one_line(f"pass\x1b[1mword={SECRET}", 80)
