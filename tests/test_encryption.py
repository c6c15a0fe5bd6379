"""The secret key of an installation: nothing is encrypted with one that others can guess."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestration.encryption import load_cipher, load_key
from orchestration.errors import BadSetting
from orchestration.settings import Settings, load_settings


def home_with(tmp_path: Path, key: bytes) -> Settings:
    path = tmp_path / "secret.key"
    path.write_bytes(key)
    path.chmod(0o600)
    return load_settings({"home": tmp_path}).model_copy(update={"secret_key": None})


@pytest.mark.parametrize("key", [b"", b" " * 16, b"\n" * 40, b"short", b"fifteen letters\n"])
def test_a_key_file_with_too_short_a_key_is_refused_by_name(tmp_path: Path, key: bytes):
    with pytest.raises(BadSetting, match=r"secret\.key has \d+ characters .* needs at least 16"):
        load_cipher(home_with(tmp_path, key))


@pytest.mark.parametrize("key", [" " * 16, "   fifteen letters   "])
def test_a_key_of_spaces_is_refused_without_showing_it(tmp_path: Path, key: str):
    settings = load_settings({"home": tmp_path}).model_copy(update={"secret_key": SecretStr(key)})
    with pytest.raises(BadSetting, match="ALERT_PIPELINE_SECRET_KEY has") as failure:
        load_cipher(settings)
    assert "letters" not in str(failure.value)


def test_a_key_of_sixteen_characters_is_enough_and_the_line_break_of_its_file_is_no_part_of_it(tmp_path: Path):
    assert load_key(home_with(tmp_path, b"sixteen letters!\n")) == load_key(home_with(tmp_path, b"sixteen letters!"))


def test_the_key_that_a_first_start_makes_is_its_owners_alone(tmp_path: Path):
    settings = load_settings({"home": tmp_path / "new"}).model_copy(update={"secret_key": None})
    assert load_key(settings) == load_key(settings)
    assert (tmp_path / "new" / "secret.key").stat().st_mode & 0o777 == 0o600
