"""A Prefect worker that runs the deployments of named flows in one warm process."""

from prefect_warm_worker.allowed import AllowedFlows, CannotLoadFlows, Refused
from prefect_warm_worker.worker import WarmProcessWorker

__all__ = ["AllowedFlows", "CannotLoadFlows", "Refused", "WarmProcessWorker"]
