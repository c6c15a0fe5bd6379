"""Is this installation well? Each part is looked at by itself, at once, and none that breaks takes another along.

`examine.py` is the table of contents; `database`, `prefect`, `channels` and `host` are the parts.
"""
