"""Which checkers look at an alert by the policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from pydantic import JsonValue

from orchestration.alert import Alert
from orchestration.errors import BadInput
from orchestration.policy.document import Path
from orchestration.policy.matchers import all_match
from orchestration.policy.model import CheckRule, Policy
from orchestration.policy.routing import Subject
from orchestration.redaction import shown


class KnownChecker(Protocol):
    """A checker, as far as a policy has to know it."""

    def parse(self, options: Mapping[str, JsonValue], /) -> object:
        """Validate its options.

        Raises:
            BadInput: they are wrong.
        """
        ...


def rule_for(policy: Policy, alerts: Iterable[Alert], *, environment: str) -> CheckRule | None:
    """The first rule that one of the alerts matches. None means that the target alone decides."""
    subjects = [Subject.of(alert, environment=environment) for alert in alerts]
    return next((rule for rule in policy.checks if any(all_match(rule.matchers, one.labels) for one in subjects)), None)


def wrong_checks(policy: Policy, known: Mapping[str, KnownChecker]) -> Iterator[tuple[Path, str]]:
    """The path and the message of each checker that does not exist, and of each option that it does not take."""
    for at, rule in enumerate(policy.checks):
        named = [*((("checkers", n), name) for n, name in enumerate(rule.checkers))]
        named += [(("configs", name), name) for name in rule.configs]
        for path, name in named:
            if name not in known:
                message = f"there is no checker {shown(name)} (there are: {', '.join(sorted(known))})"
                yield ("checks", at, *path), message
        for name, options in rule.configs.items():
            try:
                if name in known:
                    known[name].parse(options)
            except BadInput as error:
                yield ("checks", at, "configs", name), str(error)
