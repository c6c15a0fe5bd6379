"""The receivers that the other tests rely on."""

from __future__ import annotations

import socket

import statsd

from tests.receivers import statsd_receiver


def test_the_statsd_receiver_keeps_every_line():
    with statsd_receiver() as receiver:
        client = statsd.StatsClient(receiver.host, receiver.port, prefix="pipeline")
        client.incr("started.generic")
        client.timing("stage.duration", 12)
        assert receiver.wait_for(2) == ["pipeline.started.generic:1|c", "pipeline.stage.duration:12.000000|ms"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"a:1|c\nb:2|c", (receiver.host, receiver.port))
        assert receiver.wait_for(4)[2:] == ["a:1|c", "b:2|c"]
