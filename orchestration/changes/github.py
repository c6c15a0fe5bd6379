"""GitHub's webhooks as change events: deployments, pushes to the default branch, and workflows that have run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import cast

from orchestration.changes.events import GITHUB, PostedChange, clean_labels, clean_url, moment_of
from orchestration.errors import BadInput
from orchestration.redaction import one_line

_TITLE_CHARACTERS, _NAME_CHARACTERS = 300, 64
_OVER = ("success", "failure", "error")

Body = Mapping[str, object]


def parse_github(event: str, body: Body, now: datetime) -> PostedChange | None:
    """The change that an event of GitHub is about; None if it is about none.

    Args:
        event: the header X-GitHub-Event.
        body: the payload.
        now: when it came.

    Raises:
        BadInput: the body is not what GitHub sends with such an event.
    """
    reader = _READERS.get(event)
    return reader(body, now) if reader else None


def _deployment(body: Body, now: datetime) -> PostedChange | None:
    return _of_deployment(body, now, "started") if body.get("action", "created") == "created" else None


def _deployment_status(body: Body, now: datetime) -> PostedChange | None:
    status = _object(body, "deployment_status")
    state = _text(status, "state")
    if state not in _OVER:
        return None
    return _of_deployment(body, _moment(status, "created_at", now), "" if state == "success" else state, status)


def _of_deployment(body: Body, at: datetime, state: str, status: Body | None = None) -> PostedChange:
    """One event for a deployment and its statuses: the latest says how it is."""
    deployment, repository = _object(body, "deployment"), _object(body, "repository")
    number = deployment.get("id")
    if not isinstance(number, int):
        raise BadInput("deployment.id: expected the number of a deployment of GitHub")
    environment, name = _text(deployment, "environment"), _text(repository, "name")
    reference = _text(deployment, "ref") or _text(deployment, "sha")[:8]
    said = " ".join(part for part in (name, reference, f"to {environment}" if environment else "", state) if part)
    at = _moment(deployment, "created_at", at) if status is None else at
    by = _object(deployment if status is None else status, "creator")
    url = clean_url((status or {}).get("target_url")) or clean_url(repository.get("html_url"))
    labels = {**_labels(repository), "environment": environment}
    event = _event(f"deployment:{number}", at, "deploy", said, by=_text(by, "login"), url=url, labels=labels)
    return event.model_copy(update={"replaces": True})


def _push(body: Body, now: datetime) -> PostedChange | None:
    repository, after = _object(body, "repository"), _text(body, "after")
    branch = _text(repository, "default_branch")
    if not branch or body.get("ref") != f"refs/heads/{branch}" or body.get("deleted") is True:
        return None
    commits = body.get("commits")
    count = len(cast("list[object]", commits)) if isinstance(commits, list) else 0
    message = _text(_object(body, "head_commit"), "message").strip().partition("\n")[0]
    many = f"{count} commits" if count > 1 else "a commit"
    said = f"{many} to {branch} of {_text(repository, 'name')}: {message or after[:8]}"
    by = _text(_object(body, "pusher"), "name") or _text(_object(body, "sender"), "login")
    identity = f"push:{_text(repository, 'full_name')}:{after}"
    # The time of a commit is when it was written, which can be long before.
    return _event(identity, now, "push", said, by=by, url=clean_url(body.get("compare")), labels=_labels(repository))


def _workflow_run(body: Body, now: datetime) -> PostedChange | None:
    run, repository = _object(body, "workflow_run"), _object(body, "repository")
    on_default = run.get("head_branch") == repository.get("default_branch")
    if body.get("action") != "completed" or not on_default:
        return None
    number, attempt = run.get("id"), run.get("run_attempt", 1)
    if not isinstance(number, int):
        raise BadInput("workflow_run.id: expected the number of a run of GitHub")
    title, conclusion = _text(run, "display_title"), _text(run, "conclusion") or "completed"
    name = f"{_text(run, 'name') or 'workflow'} of {_text(repository, 'name')} #{run.get('run_number', '?')}"
    by = _text(_object(run, "triggering_actor"), "login") or _text(_object(run, "actor"), "login")
    said = f"{name}: {conclusion}{f', {title}' if title else ''}"
    url = clean_url(run.get("html_url"))
    identity, at = f"workflow_run:{number}:{attempt}", _moment(run, "updated_at", now)
    return _event(identity, at, "workflow", said, by=by, url=url, labels=_labels(repository))


_READERS: Mapping[str, Callable[[Body, datetime], PostedChange | None]] = {
    "deployment": _deployment,
    "deployment_status": _deployment_status,
    "push": _push,
    "workflow_run": _workflow_run,
}


def _event(
    identity: str, at: datetime, kind: str, title: str, *, by: str, url: str, labels: Mapping[str, str]
) -> PostedChange:
    return PostedChange(
        sender=GITHUB,
        sender_id=one_line(identity, 200),
        at=at,
        kind=kind,
        title=one_line(title, _TITLE_CHARACTERS),
        by=one_line(by, _NAME_CHARACTERS),
        url=url,
        labels=clean_labels(labels),
    )


def _labels(repository: Body) -> dict[str, str]:
    """A repository is mostly named like its service."""
    return {"service": _text(repository, "name"), "repository": _text(repository, "full_name")}


def _object(value: Body, name: str) -> Body:
    inner = value.get(name)
    return cast("dict[str, object]", inner) if isinstance(inner, dict) else {}


def _text(value: Body, name: str) -> str:
    inner = value.get(name)
    return inner if isinstance(inner, str) else ""


def _moment(value: Body, name: str, now: datetime) -> datetime:
    """A time of GitHub's; now if it names none that can be true."""
    try:
        return moment_of(value.get(name), now, name)
    except BadInput:
        return now
