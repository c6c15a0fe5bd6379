"""Sealing: what has to be stored and read again, but by nobody who only has the database."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from orchestration.errors import BadSetting
from orchestration.settings import Settings


class Seal:
    """Encrypts and decrypts with the sealing key of this installation. Made by `load_seal()`."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def close(self, text: bytes) -> bytes:
        """The text, encrypted."""
        return self._fernet.encrypt(text)

    def open(self, sealed: bytes) -> bytes:
        """The text that was sealed.

        Raises:
            BadSetting: it was sealed with another key.
        """
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise BadSetting(
                "What is sealed in the database was sealed with another key: every process of an installation needs "
                "the same ALERT_PIPELINE_SECRET_KEY, or the same secret.key in ALERT_PIPELINE_HOME"
            ) from None


def load_seal(settings: Settings) -> Seal:
    """The seal of this installation: ALERT_PIPELINE_SECRET_KEY, or the key of a file, made where there is none.

    Raises:
        BadSetting: the file cannot be read or made, or others can read it.
    """
    return Seal(load_key(settings))


def load_key(settings: Settings) -> bytes:
    """The sealing key, as Fernet takes it. As `load_seal()` otherwise."""
    if settings.secret_key is not None:
        return _stretched(settings.secret_key.get_secret_value())
    path = settings.home.expanduser() / "secret.key"
    try:
        _make_key(path)
        if path.stat().st_mode & 0o077:
            raise BadSetting(f"Others can read {path}: run `chmod 600 {path}`")
        return _stretched(path.read_text().strip())
    except OSError as error:
        raise BadSetting(
            f"The key {path} cannot be used ({error.strerror}): set ALERT_PIPELINE_SECRET_KEY, or ALERT_PIPELINE_HOME"
        ) from None


def _make_key(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    # Written whole under another name first: who comes second must not read half a key.
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    with suppress(FileExistsError):
        path.hardlink_to(new)
    new.unlink()


def _stretched(secret: str) -> bytes:
    """Any secret as the 32 bytes that Fernet takes."""
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest())
