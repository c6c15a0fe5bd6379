"""API keys: shown once, stored as a hash, revoked for good; and the commands for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestration.encryption import Cipher, load_cipher, load_key
from orchestration.errors import BadInput, BadSetting
from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from tests.conftest import Command
from tests.stack_fixtures import settings_for


async def test_the_database_knows_neither_the_key_nor_its_signing_secret(
    database: Database, settings: Settings
) -> None:
    async with database.transaction() as tx:
        made = await keys.create_key(tx, "ci", [Scope.TRIGGER], load_cipher(settings))
        row = (await tx.exec_driver_sql("select api_key::text from api_key")).scalar_one()
        (stored,) = await keys.list_keys(tx)

    assert made.token[12:] not in row
    assert made.signing_secret not in row
    assert stored.fits(made.token)
    assert not stored.fits(made.token + "x")
    assert load_cipher(settings).decrypt(stored.sealed_signing_secret).decode() == made.signing_secret


async def test_keys_are_long_and_differ(database: Database, settings: Settings) -> None:
    cipher = load_cipher(settings)
    async with database.transaction() as tx:
        made = [await keys.create_key(tx, f"k{n}", [Scope.READ], cipher) for n in range(20)]

    assert len({key.token for key in made} | {key.signing_secret for key in made}) == 40
    assert all(len(key.token) == len("apk_") + 43 for key in made)


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "x" * 65])
async def test_a_name_that_is_no_good_is_refused(database: Database, settings: Settings, name: str) -> None:
    with pytest.raises(BadInput, match="name"):
        async with database.transaction() as tx:
            await keys.create_key(tx, name, [Scope.READ], load_cipher(settings))


async def test_a_name_is_taken_for_good(database: Database, settings: Settings) -> None:
    cipher = load_cipher(settings)
    async with database.transaction() as tx:
        await keys.create_key(tx, "ci", [Scope.READ], cipher)
        await keys.revoke_key(tx, "ci")
        with pytest.raises(BadInput, match="choose another name"):
            await keys.create_key(tx, "ci", [Scope.READ], cipher)
        with pytest.raises(BadInput, match="no key 'ci' in use"):
            await keys.revoke_key(tx, "ci")
        assert await keys.list_keys(tx, revoked=False) == []
        assert len(await keys.list_keys(tx)) == 1


async def test_a_signature_is_used_once_and_then_forgotten(database: Database) -> None:
    async with database.transaction() as tx:
        assert await keys.use_signature(tx, "s", window_seconds=60)
        assert not await keys.use_signature(tx, "s", window_seconds=60)
        await tx.exec_driver_sql("update used_signature set used_at = now() - interval '599 seconds'")
        # Another door may have a longer window: Slack's is five minutes.
        assert await keys.use_signature(tx, "other", window_seconds=60)
        assert not await keys.use_signature(tx, "s", window_seconds=60)
        await tx.exec_driver_sql("update used_signature set used_at = now() - interval '601 seconds'")
        assert await keys.use_signature(tx, "another", window_seconds=60)
        assert await keys.use_signature(tx, "s", window_seconds=60)


# The sealing key


def test_the_sealing_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "home")
    first, again = load_key(settings), load_key(settings)

    assert first == again
    assert (tmp_path / "home" / "secret.key").stat().st_mode & 0o777 == 0o600


def test_a_sealing_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    load_key(settings)
    (tmp_path / "secret.key").chmod(0o644)

    with pytest.raises(BadSetting, match="chmod 600"):
        load_key(settings)


def test_the_environment_can_hold_the_sealing_key(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, secret_key="x" * 32)
    sealed = load_cipher(settings).encrypt(b"text")

    assert load_cipher(settings).decrypt(sealed) == b"text"
    assert not (tmp_path / "secret.key").exists()


def test_what_another_key_sealed_is_refused_in_clear_words(tmp_path: Path) -> None:
    one: Cipher = load_cipher(settings_for(tmp_path, secret_key="x" * 32))
    other = load_cipher(settings_for(tmp_path, secret_key="y" * 32))

    with pytest.raises(BadSetting, match="ALERT_PIPELINE_SECRET_KEY"):
        other.decrypt(one.encrypt(b"text"))


# The commands


def test_the_life_of_a_key_on_the_command_line(command: Command, database: Database) -> None:
    made = command("alert-pipeline", "keys", "create", "alertmanager", "--scope", "trigger", "--scope", "read")
    assert made.returncode == 0, made.stderr
    token = made.stdout.splitlines()[0].split()[-1]
    assert token.startswith("apk_")
    assert made.stdout.splitlines()[1].split()[-1].startswith("aps_")
    assert "not shown again" in made.stderr

    listed = command("alert-pipeline", "keys", "list")
    assert "alertmanager" in listed.stdout
    assert "read, trigger" in listed.stdout
    assert token not in listed.stdout

    assert command("alert-pipeline", "keys", "revoke", "alertmanager").returncode == 0
    (stored,) = json.loads(command("alert-pipeline", "keys", "list", "--json").stdout)
    assert stored["revoked_at"] is not None
    assert stored.keys() == {"name", "prefix", "scopes", "created_at", "last_used_at", "revoked_at"}


def test_a_key_as_json(command: Command, database: Database) -> None:
    made = command("alert-pipeline", "keys", "create", "ci", "--scope", "admin", "--json")

    said = json.loads(made.stdout)
    assert said["scopes"] == ["admin"]
    assert said.keys() == {"name", "token", "signing_secret", "scopes"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["create", "ci"], 2, "--scope"),
        (["create", "ci", "--scope", "root"], 2, "root"),
        (["create", "a:b", "--scope", "read"], 1, "no colon"),
        (["revoke", "nobody"], 1, "no key 'nobody' in use"),
    ],
)
def test_mistakes_are_one_line(
    command: Command, database: Database, arguments: list[str], code: int, says: str
) -> None:
    ended = command("alert-pipeline", "keys", *arguments)

    assert ended.returncode == code
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
