"""The admin at `/admin/orchestration/`: look at runs, incidents and alerts, and resume what failed.

Only `mount.py` is imported when the API starts; the rest, with sqladmin, when somebody first opens a page.
"""
