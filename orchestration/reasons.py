"""Why somebody is notified of an incident, or nobody is: the names of the rules, and what they mean in words."""

from __future__ import annotations

from enum import StrEnum, auto


class Reason(StrEnum):
    """The rule that decided. Its name is stored with the run, and shown."""

    OPENED = auto()
    NEW_EPISODE = auto()
    REOPENED = auto()
    SEVERITY_RAISED = auto()
    NEW_ALERTS = auto()
    RESOLVED = auto()
    RESOLVED_BY_HAND = auto()
    EXPIRED = auto()
    REMINDER = auto()
    ESCALATED = auto()
    ESCALATION_ENDED = auto()
    REDELIVERY = auto()
    UNTOLD = auto()
    STATE = auto()
    ANALYSIS = auto()

    REPEAT = auto()
    DUPLICATE = auto()
    SEVERITY_LOWERED = auto()
    SOME_RESOLVED = auto()
    NOTHING_OPEN = auto()
    STALE = auto()
    KEPT_ELSEWHERE = auto()
    FOLDED = auto()
    STORM_GREW = auto()
    IGNORED = auto()
    ACKNOWLEDGED = auto()
    SNOOZED = auto()
    SILENCED = auto()
    MUTED = auto()
    INHIBITED = auto()
    FLAPPING = auto()
    QUIET_AGAIN = auto()
    HELD_BACK = auto()
    HEARD_OF = auto()
    BEATS = auto()
    DOOR_CLOSED = auto()
    NOT_DUE = auto()
    ALREADY_RESOLVED = auto()
    COALESCED = auto()
    NOT_EDITABLE = auto()
    GIVEN_UP = auto()
    NO_CHANNEL = auto()
    NOBODY = auto()
    NO_OTHER_CHANNEL = auto()
    PROCESS_LOST = auto()


_IN_WORDS: dict[str, str] = {
    Reason.OPENED: "a new incident",
    Reason.NEW_EPISODE: "it began again, and the end of the time before was never heard of",
    Reason.REOPENED: "it was resolved, and fires again",
    Reason.SEVERITY_RAISED: "it got worse",
    Reason.NEW_ALERTS: "more alerts joined the incident",
    Reason.RESOLVED: "every alert of the incident is resolved",
    Reason.RESOLVED_BY_HAND: "somebody has resolved the incident",
    Reason.EXPIRED: "nobody has heard of it for long, so it counts as over; whether it is, is not known",
    Reason.REMINDER: "a reminder: it still fires, and nobody has acknowledged it",
    Reason.ESCALATED: "nobody has acknowledged it so far, so it goes on to you",
    Reason.ESCALATION_ENDED: "everybody of its escalation was notified, and nobody has acknowledged it",
    Reason.REDELIVERY: "an earlier message about this incident did not go out",
    Reason.STATE: "somebody has acted on it, which the messages that can be edited show now",
    Reason.ANALYSIS: "the model has answered, which the messages that can be edited show now",
    Reason.UNTOLD: "nothing new, but not every channel knew what is true",
    Reason.REPEAT: "a repeat: nothing has changed",
    Reason.DUPLICATE: "the same was said shortly before",
    Reason.SEVERITY_LOWERED: "it is less severe than before, and still fires",
    Reason.SOME_RESOLVED: "some alerts of the incident are resolved, others still fire",
    Reason.NOTHING_OPEN: "alerts are resolved that belong to no open incident",
    Reason.STALE: "it is older than what is known about its alerts, and changes nothing",
    Reason.KEPT_ELSEWHERE: "it fires in another incident, of a storm or of the grouping before, which keeps it "
    "until it ends",
    Reason.FOLDED: "it is one of many that came at once: the storm's message speaks for all of them",
    Reason.STORM_GREW: "the storm has more alerts, which the messages that can be edited show now and then",
    Reason.IGNORED: "the event says nothing about the state of an alert",
    Reason.ACKNOWLEDGED: "somebody has acknowledged the incident",
    Reason.SNOOZED: "somebody has snoozed the incident",
    Reason.SILENCED: "somebody has silenced its alerts",
    Reason.MUTED: "the policy notifies nobody of it at this time",
    Reason.INHIBITED: "another alert fires that explains it",
    Reason.FLAPPING: "it begins and ends again and again, so it is told when it is quiet",
    Reason.QUIET_AGAIN: "it was flapping, and is quiet now",
    Reason.HELD_BACK: "it was kept back until now, and still fires",
    Reason.HEARD_OF: "the incident was heard of in the meantime",
    Reason.BEATS: "the heartbeat is not missing: a beat has come, or may still come in time",
    Reason.DOOR_CLOSED: "nothing can be said of the heartbeat, because no beat could be accepted meanwhile",
    Reason.NOT_DUE: "it is not due any more: the incident has changed, or was notified of, in the meantime",
    Reason.ALREADY_RESOLVED: "the incident is resolved already",
    Reason.COALESCED: "another run has already said on every channel what is true now",
    Reason.NOT_EDITABLE: "no channel that heard of it can bring its messages up to date, so the answer of the model is "
    "only on record",
    Reason.GIVEN_UP: "the attempts to tell a channel were given up, and nothing new has come since",
    Reason.NOBODY: "the policy says that nobody is notified of it",
    Reason.NO_CHANNEL: "no channel is set up",
    Reason.NO_OTHER_CHANNEL: "it is about a channel that does not work, and no other one is set up",
    Reason.PROCESS_LOST: "processes ended during this run, so it does only what its message needs",
}


def meaning_of(reason: str | None) -> str:
    """What a reason means, such as "a repeat: nothing has changed"; "" for one that is no code word."""
    return _IN_WORDS.get(reason or "", "")


def in_words(reason: str | None) -> str:
    """A reason with its meaning, such as `repeat, a repeat: nothing has changed`.

    Args:
        reason: a `Reason`, or the skip reason of a run. None means that no reason is on record.
    """
    meaning = meaning_of(reason)
    return f"{reason}, {meaning}" if meaning else reason or "no reason is on record"
