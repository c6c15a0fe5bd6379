"""What runs inside the process of Prefect's server. Nothing else imports this: Prefect takes seconds to load."""

from __future__ import annotations

import gc
import importlib
from typing import Any


def create_app() -> Any:
    """Prefect's server application, made with the garbage collector out of the way.

    Loading it makes half a million objects that stay. Looking through them again and again took 2 of the 5
    seconds of the start; frozen, they are also left out of every collection that comes later.
    """
    gc.disable()
    try:
        return importlib.import_module("prefect.server.api.server").create_app()
    finally:
        gc.freeze()
        gc.enable()
