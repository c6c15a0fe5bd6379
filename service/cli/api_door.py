"""The API as commands know it that send alerts to it: its address, its key, and the door to it."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.local_key import local_key_for
from orchestration.settings import Settings
from service.sending import Door

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE, KEY_VARIABLE = "SEND_URL", "SEND_API_KEY"

ApiUrl = Annotated[str, typer.Option(envvar=URL_VARIABLE, help="The API.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar=KEY_VARIABLE, help="An API key with the scope trigger. By default the local key, on its machine."
    ),
]


def door_to(url: str, key: str | None, settings: Settings) -> Door:
    """The door to the API at this address, with this key. Without one it is the local key, if it is good there."""
    return Door(url=plain(url), api_key=plain(key or "").strip() or local_key_for(settings, url))


def plain(typed: str) -> str:
    """A text as UTF-8 can have it: what a shell passes may be in another encoding."""
    return typed.encode(errors="surrogateescape").decode(errors="replace")
