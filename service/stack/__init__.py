"""The embedded stack: PostgreSQL and Prefect's server, for commands whose settings name no other.

A command calls `attach()`. It finds the stack that runs in this home, or starts one that lives for as long as a command
uses it. A command that runs for days uses `PersistentStack`. The parts: `keeper` (the process that owns the stack),
`connection` (how commands reach it), `postgres` and `prefect_server` (the two servers), `process` (what both share).
"""

from orchestration.embedded_stack import StackAddresses
from service.stack.connection import PersistentStack, attach

__all__ = ["PersistentStack", "StackAddresses", "attach"]
