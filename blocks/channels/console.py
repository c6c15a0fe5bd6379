"""The console: what a first run, and a run without a configured channel, shows its message on."""

from __future__ import annotations

import asyncio
import sys
from typing import Self, TextIO

from pydantic import PrivateAttr

from blocks.channels.base import ChannelBlock
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.settings import Settings

_WIDTH = 78


class ConsoleChannel(ChannelBlock):
    """Writes the message as plain text, to standard error unless told otherwise."""

    _block_type_name = "Console Channel"
    _block_type_slug = "console-channel"
    _description = "Writes each message to the console of the process that sends it."

    _stream: TextIO | None = PrivateAttr(default=None)

    configured_by = "nothing"

    @property
    def driver(self) -> str:
        """`console`."""
        return "console"

    @property
    def target(self) -> str:
        """`console`."""
        return "console"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:  # noqa: ARG003  a console needs no setting
        """A console is always there."""
        return cls()

    def writing_to(self, stream: TextIO) -> Self:
        """The same channel, writing to this stream; standard output belongs to `--json`, so ask before you take it."""
        channel = self.model_copy()
        channel._stream = stream
        return channel

    async def send(self, message: Message) -> Delivery:
        """Write the message between two lines, whole, and flush.

        Raises:
            DeliveryFailed: nobody reads the stream any more.
        """
        frame = "─" * _WIDTH
        await asyncio.to_thread(self._write, f"{frame}\n{message.text.rstrip()}\n{frame}\n")
        return self._sent("console")

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stderr
        encoding = stream.encoding or "utf-8"
        try:
            stream.write(text.encode(encoding, "replace").decode(encoding, "replace"))
            stream.flush()
        except (OSError, ValueError) as error:
            raise DeliveryFailed(f"the console cannot be written to: {type(error).__name__}", retryable=False) from None
