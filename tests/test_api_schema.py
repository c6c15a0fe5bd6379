"""The OpenAPI document and the API agree: Schemathesis makes requests from the document and checks the answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig

from orchestration.settings import Settings
from service.api import create_app
from tests.service_helpers import ApiProcess
from tests.stack_fixtures import settings_for

CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {
            "deterministic": True,
            "max-examples": 25,
            "database": "none",
            # test_api_auth.py tests authentication; here every request is let through.
            "with-security-parameters": False,
        },
        "checks": {
            "ignored_auth": {"enabled": False},
            # A body may fit the document and still have no alert: no schema describes every source.
            "positive_data_acceptance": {"enabled": False},
            # Without a worker nothing is ready (503) or ends in time (504). No operation lists a 500.
            "not_a_server_error": {"enabled": False},
        },
        # What is no alert is accepted there too: it is kept, and somebody is told.
        "operations": [
            {"include-path-regex": "^/alerts/webhook/", "checks": {"negative_data_rejection": {"enabled": False}}}
        ],
    }
)
OPENAPI = create_app(Settings(), "postgresql://nowhere/none").openapi()
OPERATIONS = [(method, path) for path, methods in OPENAPI["paths"].items() for method in methods]
DOCUMENT = schemathesis.openapi.from_dict(OPENAPI, config=CONFIG)


@pytest.fixture(scope="module")
def api(home: Path, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API behind a real server, on a database without a worker."""
    log = tmp_path_factory.mktemp("schema") / "api.log"
    open_door = {"API_AUTH": "off", "API_RATE_LIMIT_PER_SECOND": "0", "API_SYNC_TIMEOUT_SECONDS": "0.01"}
    with closing(ApiProcess(settings_for(home), postgres_url, log, **open_door)) as process:
        yield process.url


def trial_of(method: str, path: str) -> Callable[[str, schemathesis.Case], None]:
    """Make the test of one operation."""

    @DOCUMENT.include(method=method, path=path).parametrize()
    def trial(api: str, case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=api)

    return trial


# One function for each operation: Schemathesis gives all items of a function one id, and of those that have the
# same id pytest-xdist runs the first alone.
for method, path in OPERATIONS:
    words = "_".join(re.findall(r"\w+", path))
    globals()[f"test_{method}_{words}_answers_as_the_document_says"] = trial_of(method.upper(), path)


def test_every_operation_has_its_trial() -> None:
    assert sum(name.endswith("_answers_as_the_document_says") for name in globals()) == len(OPERATIONS) >= 11
