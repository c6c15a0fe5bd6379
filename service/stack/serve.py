"""What runs inside the process of Prefect's server. Nothing else imports this: Prefect takes seconds to load."""

from __future__ import annotations

import asyncio
import gc
import importlib
from typing import Any

from service.garbage import look_seldom


def create_app() -> Any:
    """Prefect's server application, made with the garbage collector out of the way.

    Loading it makes half a million objects that stay. Looking through them again and again took 2 of the 5
    seconds of the start; frozen, they are also left out of every collection that comes later.
    """
    gc.disable()
    try:
        app = importlib.import_module("prefect.server.api.server").create_app()
        end_without_a_last_sleep(importlib.import_module("prefect.server.events.triggers"))
        return app
    finally:
        look_seldom()
        gc.enable()


def end_without_a_last_sleep(triggers: Any) -> None:
    """Make the server end at once also when the end meets an evaluation of its triggers.

    Prefect 3.8 evaluates in a loop with `finally: await asyncio.sleep(5)`: a cancellation that arrives during
    the evaluation sleeps for five seconds more. Right after the start, where a short command ends, that is
    every third time. A second cancellation ends the sleep.
    """
    original = getattr(triggers, "periodic_evaluation", None)
    if original is None:
        return

    async def periodic_evaluation(*args: Any, **kwargs: Any) -> None:
        try:
            await original(*args, **kwargs)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.cancel()
            raise

    triggers.periodic_evaluation = periodic_evaluation
