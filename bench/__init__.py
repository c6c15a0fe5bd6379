"""Benchmarks, run by hand: `uv run python -m bench`. They print figures and judge nothing."""
