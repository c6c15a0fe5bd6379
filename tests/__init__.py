"""The tests. What they share says what it compared, as the tests themselves do."""

import pytest

pytest.register_assert_rewrite("tests.cli_helpers", "tests.stack_fixtures")
