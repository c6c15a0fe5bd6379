"""Benchmarks, started by hand with `uv run python -m bench`. They print figures, and no figure is a failure."""
