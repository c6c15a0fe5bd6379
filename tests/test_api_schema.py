"""The OpenAPI document and the API agree: Schemathesis makes requests of the document, and judges the answers by it."""

from __future__ import annotations

from collections.abc import Iterator
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
            # Who may call is the matter of test_api_auth.py; here every request is to come through.
            "with-security-parameters": False,
        },
        "checks": {
            "ignored_auth": {"enabled": False},
            # A body may fit the document and yet hold no alert: whose it is, no schema can say.
            "positive_data_acceptance": {"enabled": False},
            # Without a worker nothing is ready (503) nor over in time (504). A 500 is in no operation's list.
            "not_a_server_error": {"enabled": False},
        },
    }
)
DOCUMENT = schemathesis.openapi.from_dict(create_app(Settings(), "postgresql://nowhere/none").openapi(), config=CONFIG)


@pytest.fixture(scope="module")
def api(home: Path, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API behind a real server, on a database without a worker."""
    log = tmp_path_factory.mktemp("schema") / "api.log"
    open_door = {"API_AUTH": "off", "API_RATE_LIMIT_PER_SECOND": "0", "API_SYNC_TIMEOUT_SECONDS": "0.01"}
    with closing(ApiProcess(settings_for(home), postgres_url, log, **open_door)) as process:
        yield process.url


@DOCUMENT.parametrize()
def test_every_answer_is_one_that_the_document_names(api: str, case: schemathesis.Case) -> None:
    case.call_and_validate(base_url=api)
