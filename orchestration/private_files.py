"""Files with secrets, which are made once and which only their owner can read."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def make_private_file(path: Path, content: str) -> None:
    """Write a file that only its owner can read, and its folder, unless there is one: then that one stays.

    Raises:
        OSError: the file or its folder cannot be made.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    # Written under another name first: another process must not read half of it.
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(content)
        with suppress(FileExistsError):
            path.hardlink_to(new)
    finally:
        new.unlink(missing_ok=True)
