"""Encryption of secrets that the database stores: its content alone is not enough to read them."""

from __future__ import annotations

import base64
import hashlib
import secrets

from cryptography.fernet import Fernet, InvalidToken

from orchestration.errors import BadSetting
from orchestration.private_files import make_private_file
from orchestration.settings import Settings

MIN_CHARACTERS = 16
"""The shortest secret key. Anybody can try all shorter ones, and the empty one is known to all."""


class Cipher:
    """Encrypts and decrypts with the secret key of this installation. Made by `load_cipher()`."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def encrypt(self, text: bytes) -> bytes:
        """The text, encrypted."""
        return self._fernet.encrypt(text)

    def decrypt(self, encrypted: bytes) -> bytes:
        """The text that was encrypted.

        Raises:
            BadSetting: it was encrypted with another key.
        """
        try:
            return self._fernet.decrypt(encrypted)
        except InvalidToken:
            raise BadSetting(
                "A secret in the database was encrypted with another key: every process of an installation needs "
                "the same ALERT_PIPELINE_SECRET_KEY, or the same secret.key in ALERT_PIPELINE_HOME"
            ) from None


def load_cipher(settings: Settings) -> Cipher:
    """The cipher of this installation, with the key of `load_key()`.

    Raises:
        BadSetting: the key file cannot be read or created, or other users can read it.
    """
    return Cipher(load_key(settings))


def load_key(settings: Settings) -> bytes:
    """The secret key, as Fernet takes it: of ALERT_PIPELINE_SECRET_KEY, else of a file that is created if missing.

    Raises:
        BadSetting: the key file cannot be read or created, other users can read it, or the key is too short.
    """
    if settings.secret_key is not None:
        return _stretched(settings.secret_key.get_secret_value(), "ALERT_PIPELINE_SECRET_KEY")
    path = settings.home.expanduser() / "secret.key"
    try:
        make_private_file(path, secrets.token_urlsafe(32))
        if path.stat().st_mode & 0o077:
            raise BadSetting(f"Others can read {path}: run `chmod 600 {path}`")
        return _stretched(path.read_text(errors="replace"), str(path))
    except OSError as error:
        raise BadSetting(
            f"The key {path} cannot be used ({error.strerror}): set ALERT_PIPELINE_SECRET_KEY, or ALERT_PIPELINE_HOME"
        ) from None


def _stretched(secret: str, where: str) -> bytes:
    """A secret of 16 characters or more as the 32 bytes that Fernet takes, in base64."""
    secret = secret.strip()
    if len(secret) < MIN_CHARACTERS:
        raise BadSetting(
            f"The secret key in {where} has {len(secret)} characters without the spaces around it; "
            f"it needs at least {MIN_CHARACTERS}. `openssl rand -base64 32` makes one"
        )
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest())
