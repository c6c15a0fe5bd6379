"""Where messages go: every driver, and the block that is its configuration and its behaviour."""

from __future__ import annotations

from blocks.channels.base import ChannelBlock
from blocks.channels.console import ConsoleChannel
from blocks.channels.email import EmailChannel
from blocks.channels.generic import GenericChannel
from blocks.channels.slack import SlackChannel

CHANNELS: dict[str, type[ChannelBlock]] = {
    "console": ConsoleChannel,
    "slack": SlackChannel,
    "email": EmailChannel,
    "generic": GenericChannel,
}
"""Driver to block."""

__all__ = ["CHANNELS", "ChannelBlock", "ConsoleChannel", "EmailChannel", "GenericChannel", "SlackChannel"]
