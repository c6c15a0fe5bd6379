"""Links in messages to a page on which a person can answer: signed, encrypted, and good for a time.

Every process of an installation derives the same key, one-way, from its secret key.
"""

from __future__ import annotations

import base64
import hmac
from datetime import timedelta

from cryptography.fernet import Fernet, InvalidToken
from pydantic import ValidationError

from orchestration.contracts import Contract
from orchestration.encryption import load_key
from orchestration.errors import BadInput
from orchestration.responses import Response
from orchestration.settings import Settings

PATH = "/respond/"
"""Where the page is, below the URL of the API."""

LINK = "respond"
"""The name of the link in a message."""

_KEY_LABEL = b"alert-pipeline respond link"
_MOST_CHARACTERS = 2000
_NO_LINK = "This link is not complete, or it is none of alert-pipeline: copy it from the message as it is"


class RespondLink(Contract):
    """What a link allows, and for whom it was made."""

    incident: str
    """The incident's `public_key`."""
    channel: str
    """The channel that the link was sent to."""
    person: str = ""
    """Whose channel it is. Empty means that the policy names nobody, or several people."""
    responses: tuple[Response, ...] = tuple(Response)


class LinkExpired(BadInput):
    """The link was made too long ago."""


class RespondLinks:
    """Makes links, and reads them.

    Raises:
        BadSetting: the secret key of the installation cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        key = hmac.digest(load_key(settings), _KEY_LABEL, "sha256")
        self._fernet = Fernet(base64.urlsafe_b64encode(key))
        self._public_url = (settings.api_public_url or "").rstrip("/")
        self._good_for = timedelta(hours=settings.respond_link_hours)

    def url(self, link: RespondLink) -> str:
        """The address of the page, below `API_PUBLIC_URL`."""
        token = self._fernet.encrypt(link.model_dump_json(exclude_defaults=True).encode()).decode()
        # Programs that look for addresses in a text leave out signs at their end.
        return f"{self._public_url}{PATH}{token.rstrip('=')}/"

    def read(self, token: str) -> RespondLink:
        """What a token allows.

        Raises:
            BadInput: it is none of this installation.
            LinkExpired: it is too old.
        """
        padded = token + "=" * (-len(token) % 4)
        if not token.isascii() or len(token) > _MOST_CHARACTERS:
            raise BadInput(_NO_LINK)
        try:
            content = self._fernet.decrypt(padded)
            link = RespondLink.model_validate_json(content)
        except (InvalidToken, ValidationError):
            raise BadInput(_NO_LINK) from None
        try:
            self._fernet.decrypt(padded, ttl=int(self._good_for.total_seconds()))
        except InvalidToken:
            raise LinkExpired(
                f"This link has expired: it was good for {self._good_for.total_seconds() / 3600:g} h"
            ) from None
        return link
