"""Bodies that are no JSON: a line of text, a form, or nothing but the parameters of the address.

Routers, UPS units, mail gateways and one-line scripts send these. They become one alert in the generic shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from service.api.body import BodyHeaders, readable

_OWN_PARAMETERS = frozenset(("environment", "definition"))
"""Parameters of the address that are not about the alert."""

_TYPES = frozenset(("", "text/plain", "application/x-www-form-urlencoded"))
"""A body that says that it is JSON, and is not, is broken."""

_OF_OTHER_KINDS = ("{", "[", "<")
"""How JSON and XML begin. What begins like this and cannot be read is broken, and no text for people."""

_MAX_FIELDS = 50
_MAX_TEXT = 16 * 1024
_NAME_CHARACTERS = 200
_NAMES = frozenset(("name", "alertname", "alert_name", "title", "subject", "message", "text"))
"""Of these fields a form or the address has at least one; otherwise it is about no alert."""


def read_plain(raw: bytes, headers: BodyHeaders, parameters: Mapping[str, str]) -> dict[str, object] | None:
    """The alert in a body that is no JSON, in the generic shape. None means that there is none.

    The first line of a text is the alert's name, and the rest describes it. Fields of the address count where the body
    does not say otherwise.
    """
    if headers.content_type.partition(";")[0].strip().lower() not in _TYPES:
        return None
    fields = {name: value for name, value in parameters.items() if name not in _OWN_PARAMETERS and value.strip()}
    text = readable(raw, headers, _MAX_TEXT)
    if text.startswith(_OF_OTHER_KINDS) or "\x00" in text or (text and not any(map(str.isalnum, text))):
        return None
    if headers.is_form and b"=" in raw:
        fields |= _form(raw, headers)
    elif text:
        first, _, rest = text.partition("\n")
        fields |= {"name": first.strip()[:_NAME_CHARACTERS]} | ({"description": rest.strip()} if rest.strip() else {})
        if len(first.strip()) > _NAME_CHARACTERS:
            fields["description"] = text
    return dict(fields) if not _NAMES.isdisjoint(fields) else None


def _form(raw: bytes, headers: BodyHeaders) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii", "replace").strip(), encoding=headers.charset or "utf-8", max_num_fields=_MAX_FIELDS
        )
    except (ValueError, LookupError):  # too many fields, or a charset that is none
        return {}
    return {name.strip(): value for name, value in pairs if name.strip() and value.strip()}
