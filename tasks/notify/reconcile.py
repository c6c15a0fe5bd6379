"""Whether a channel has to be told something, from what it knows and what is true now. Pure: no store, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto

from orchestration.alert import AlertStatus
from orchestration.reasons import Reason
from orchestration.store.standings import Standing


class Why(StrEnum):
    """The rule that decided whether a channel is told."""

    UP_TO_DATE = auto()
    SECOND_NODE = auto()
    GIVEN_UP = auto()
    SOMEBODY_HAS_IT = auto()
    LEFT_TO_ANOTHER = auto()
    STATE = auto()
    ENDED = auto()
    BEGAN_AND_ENDED = auto()
    FIRST = auto()
    BEGAN_AGAIN = auto()
    BEHIND = auto()


BEGINNINGS = frozenset({Why.FIRST, Why.BEGAN_AGAIN, Why.BEGAN_AND_ENDED})
"""The rules with which the channel hears of an episode for the first time."""


@dataclass(frozen=True)
class Decision:
    """Whether a message is sent, and the rule that decided it."""

    sends: bool
    why: Why


def decide(
    standing: Standing, *, redelivery: bool = False, escalation: bool = False, state_only: bool = False
) -> Decision:
    """Decide whether a channel is told. The first rule that applies decides:

    up_to_date: it knows the present version, or all that is news if it can only send new messages.
    second_node: another node of the same run has said so there; each node of a definition has its own message.
    given_up: nobody has spoken of the incident since the attempts were given up.
    somebody_has_it: a step of an escalation, of an incident that was acknowledged, snoozed or resolved meanwhile.
    left_to_another: another run is sending there now. It looks again afterwards, so nothing is lost. Or there is news,
        and this run only shows what disturbs nobody.
    state: it knows the news; its message is only brought up to date.
    ended: the channel was told that it fires, and it is over.
    began_and_ended: it is over, and the channel was never told that it fires: one message says both.
    first: the channel was told nothing.
    began_again: the last thing that the channel was told is that it was over.
    behind: the channel knows an older version.
    """
    known, knows_news = standing.known_version >= standing.wanted_version, standing.knows_news
    again_by_node = known and standing.told_by_run and not standing.sent_by_node and not standing.sent_by_run
    rules = (
        (known and not again_by_node, Decision(False, Why.UP_TO_DATE)),
        (again_by_node, Decision(True, Why.SECOND_NODE)),
        (standing.given_up and redelivery, Decision(False, Why.GIVEN_UP)),
        (escalation and not knows_news and (standing.quiet or standing.over), Decision(False, Why.SOMEBODY_HAS_IT)),
        (standing.other_run is not None or (state_only and not knows_news), Decision(False, Why.LEFT_TO_ANOTHER)),
        (knows_news, Decision(True, Why.STATE)),
        (standing.over and standing.known_status is AlertStatus.FIRING, Decision(True, Why.ENDED)),
        (standing.over, Decision(True, Why.BEGAN_AND_ENDED)),
        (standing.known_version == 0, Decision(True, Why.FIRST)),
        (standing.known_status is AlertStatus.RESOLVED, Decision(True, Why.BEGAN_AGAIN)),
    )
    return next((decision for applies, decision in rules if applies), Decision(True, Why.BEHIND))


_JOINED = (Reason.SEVERITY_RAISED, Reason.NEW_ALERTS, Reason.RESOLVED, Reason.SOME_RESOLVED, "")


def reason_to_say(decision: Decision, standing: Standing, reason: str, ended: str = Reason.RESOLVED) -> str:
    """Why the channel is told, from its own view: what another run was about may be news to it, too.

    `reason` is why this run notifies; `ended` is how the incident has ended, whichever run says it.
    """
    match decision.why:
        case Why.ENDED | Why.BEGAN_AND_ENDED:
            return ended
        case Why.STATE:
            return Reason.STATE
        case Why.FIRST if reason in _JOINED and reason != Reason.SEVERITY_RAISED:
            return Reason.OPENED
        case Why.BEGAN_AGAIN if reason in (*_JOINED, Reason.OPENED):
            return Reason.REOPENED
        case Why.BEHIND if standing.known_severity and standing.severity.rank > standing.known_severity.rank:
            return Reason.SEVERITY_RAISED
        case _:
            return reason
