"""Measures the warm worker beside Prefect's process worker and `serve()`: `python -m prefect_warm_worker.bench`."""
