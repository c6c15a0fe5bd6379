"""Prefect blocks: what operators choose, with the behaviour that goes with it."""
