"""The admin at `/admin/orchestration/`: shows runs, incidents and alerts, and resumes failed runs.

The API imports only `mount.py` when it starts. The rest, and sqladmin, is imported with the first request.
"""

from contextvars import ContextVar

from orchestration.pages import ADMIN_PATH

PATH = ADMIN_PATH
"""Where the API serves the admin."""

_public: ContextVar[str] = ContextVar("admin_public_path", default=PATH)


class PublicPath:
    """`PATH` as the browser knows it, with the prefix of a proxy, for the links of the request that is answered now."""

    def __str__(self) -> str:
        return _public.get()

    __html__ = __str__

    def set(self, path: str) -> None:
        """Name the path for the request that this task answers."""
        _public.set(path)


PUBLIC_PATH = PublicPath()
