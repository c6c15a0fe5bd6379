"""`alert-pipeline env`: the addresses and the credential of the running stack, for other programs of this user."""

from __future__ import annotations

import shlex
import sys

from orchestration.embedded_stack import find_running_stack
from orchestration.errors import Unavailable
from orchestration.settings import load_settings


def env() -> int:
    """Print what other programs need to use the running stack, as shell commands: eval "$(alert-pipeline env)".

    Afterwards `prefect deployment run`, and flows that a script starts, reach the embedded Prefect and its database in
    this shell. The output contains the credential of Prefect's API: whoever has it executes code as the worker's user.
    """
    settings = load_settings()
    if (stack := find_running_stack(settings)) is None:
        raise Unavailable(
            f"No embedded stack of this user runs in {settings.home}: start `alert-pipeline up`, or set "
            "ALERT_PIPELINE_HOME as it is set there"
        )
    variables = {
        "PREFECT_API_URL": stack.prefect_api_url,
        "PREFECT_API_AUTH_STRING": stack.prefect_auth_string,
        "DATABASE_URL": stack.database_url,
    }
    for name, value in variables.items():
        if value is not None:
            # Not through Rich, which may change a line.
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0
