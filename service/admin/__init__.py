"""The admin at `/admin/orchestration/`: shows runs, incidents and alerts, and resumes failed runs.

The API imports only `mount.py` when it starts. The rest, and sqladmin, is imported with the first request.
"""

PATH = "/admin/orchestration"
"""Where the API serves the admin."""
