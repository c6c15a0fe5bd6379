"""The link in a message on whose page whoever reads the channel can answer."""

from __future__ import annotations

from collections.abc import Callable

from orchestration.errors import BadSetting
from orchestration.policy.active import ActivePolicy
from orchestration.respond_links import RespondLink, RespondLinks
from orchestration.responses import offered_for
from orchestration.settings import Settings
from orchestration.signals import logger
from tasks.notify.subject import MessageSubject


def respond_link(settings: Settings, policy: ActivePolicy | None) -> Callable[[MessageSubject, str], str]:
    """What makes the link for a message to a channel; it makes "" if nothing can be done, or without API_PUBLIC_URL."""
    links = _links(settings)

    def link(subject: MessageSubject, channel: str) -> str:
        incident = subject.incident
        if links is None or incident is None or subject.version is None or not offered_for(incident):
            return ""
        made = RespondLink(incident=incident.public_key, channel=channel, person=_person_of(channel, policy))
        return links.url(made)

    return link


def _links(settings: Settings) -> RespondLinks | None:
    if settings.api_public_url is None:
        return None
    try:
        return RespondLinks(settings)
    except BadSetting as error:
        logger.error("The message has no link to answer it: %s", error)
        return None


def _person_of(channel: str, policy: ActivePolicy | None) -> str:
    """The person whom a channel reaches; "" if the policy names nobody, or several."""
    people = policy.policy.people if policy is not None else {}
    found = [name for name, person in people.items() if channel in person.contacts]
    return found[0] if len(found) == 1 else ""
