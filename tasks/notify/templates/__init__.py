"""The templates of a message, and the sandbox that renders them."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

from jinja2 import PackageLoader, StrictUndefined, select_autoescape
from jinja2.sandbox import SandboxedEnvironment

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#&])")


def render(template: str, view: dict[str, Any]) -> str:
    """Render a template of this folder. The values in `view` are data, never templates."""
    return _environment().get_template(template).render(view).strip() + "\n"


@cache
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=PackageLoader("tasks.notify", "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters["md"] = partial(_MARKDOWN.sub, r"\\\1")
    return environment
