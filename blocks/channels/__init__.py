"""The channels: every driver, and the Prefect block that configures it and sends its messages."""

from __future__ import annotations

# ChannelBlock is no member of this package: `prefect block register -m blocks.channels` would offer it in the UI.
from blocks.channels import base
from blocks.channels.apprise import AppriseChannel
from blocks.channels.base import ConsoleChannel
from blocks.channels.email import EmailChannel
from blocks.channels.generic import GenericChannel
from blocks.channels.ntfy import NtfyChannel
from blocks.channels.pagerduty import PagerDutyChannel
from blocks.channels.slack import SlackChannel

CHANNELS: dict[str, type[base.ChannelBlock]] = {
    "console": ConsoleChannel,
    "slack": SlackChannel,
    "email": EmailChannel,
    "generic": GenericChannel,
    "pagerduty": PagerDutyChannel,
    "ntfy": NtfyChannel,
    "apprise": AppriseChannel,
}
"""The registry: driver to block. A new channel is a file in this folder and a line here."""

__all__ = [
    "CHANNELS",
    "AppriseChannel",
    "ConsoleChannel",
    "EmailChannel",
    "GenericChannel",
    "NtfyChannel",
    "PagerDutyChannel",
    "SlackChannel",
]
