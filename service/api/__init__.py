"""The HTTP API: accepts pushes, stores them before it answers, and shows and resumes runs. It knows no Prefect."""

from service.api.app import create_app

__all__ = ["create_app"]
