"""The local key: callers on this machine have it without a command, and a proxy on this machine has it not.

It is in two files of `ALERT_PIPELINE_HOME` that only their owner can read. `local.key` has the key alone, as the
`credentials_file` of Alertmanager takes it. `local.header` has it as a header, for `curl -H @…/local.header`, which
shows it neither to the history of the shell nor to the list of processes.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from orchestration.errors import BadSetting
from orchestration.places import is_loopback
from orchestration.private_files import make_private_file
from orchestration.settings import Settings
from orchestration.store.keys import TOKEN_START

KEY_FILE = "local.key"
HEADER_FILE = "local.header"
CURL = 'curl -H "@$(alert-pipeline keys local)" …'
"""How to call the API on this machine."""

_LEAST_CHARACTERS = 32


def header_path(settings: Settings) -> Path:
    """The file that `curl -H @FILE` reads."""
    return settings.home.expanduser().absolute() / HEADER_FILE


def load_local_key(settings: Settings) -> str:
    """The local key of this home. It is made if there is none.

    Raises:
        BadSetting: a file cannot be read or made, other users can read it, or it has no key.
    """
    home = settings.home.expanduser().absolute()
    key_path = home / KEY_FILE
    try:
        make_private_file(key_path, f"{TOKEN_START}{secrets.token_urlsafe(32)}\n")
        key = _read(key_path)
        if len(key) < _LEAST_CHARACTERS or not key.startswith(TOKEN_START) or not key.isascii() or " " in key:
            raise BadSetting(f"{key_path} has no key: delete it, and a new one is made")
        header = f"X-API-Key: {key}"
        if not (home / HEADER_FILE).exists() or _read(home / HEADER_FILE) != header:
            (home / HEADER_FILE).unlink(missing_ok=True)
            make_private_file(home / HEADER_FILE, f"{header}\n")
    except OSError as error:
        raise BadSetting(
            f"The local key {key_path} cannot be used ({error.strerror}): see ALERT_PIPELINE_HOME"
        ) from None
    return key


def local_key_for(settings: Settings, url: str) -> str | None:
    """The local key for a request to this address; None if it is of another machine, or there is no key to use."""
    if not is_loopback(url):
        return None
    try:
        return load_local_key(settings)
    except BadSetting:
        return None


def _read(path: Path) -> str:
    """The content of a file that only its owner can read.

    Raises:
        BadSetting: other users can read it.
        OSError: it is a link, or cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise BadSetting(f"Others can read {path}: delete it, and a new one is made")
        return file.read(4096).strip()
