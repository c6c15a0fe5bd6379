"""The HTTP door: pushes come in, are safe before the answer, and can be watched and resumed. Knows no Prefect."""

from service.api.app import create_app

__all__ = ["create_app"]
