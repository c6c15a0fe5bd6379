"""The embedded stack: PostgreSQL and Prefect's server for commands that are told of no other.

`attach()` is all that a command calls. It finds the stack that runs in this home, or starts one for as long
as somebody uses it; a command that runs for days holds it with `HeldStack`. How: `keeper` (the process that
owns the stack), `connection` (how commands reach it), `postgres` and `prefect_server` (the two parts), `part`
(what is the same for both).
"""

from service.stack.client import StackAddresses, attach, running
from service.stack.held import HeldStack

__all__ = ["HeldStack", "StackAddresses", "attach", "running"]
