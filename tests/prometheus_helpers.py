"""A real Prometheus and a real node_exporter on loopback, on free ports; both are ended by their `with` blocks."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

PROMETHEUS = shutil.which("prometheus")
NODE_EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")

needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or NODE_EXPORTER is None,
    reason="needs Prometheus and its node_exporter: apt-get install prometheus prometheus-node-exporter",
)

_START_SECONDS = 30.0

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{target}"]}}]
rule_files: [rules.yml]
alerting:
  alertmanagers: [{{static_configs: [{{targets: ["{receiver}"]}}]}}]
"""

USED = "100 * (1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)"
"""Per cent of memory that are in use: far more than one, on any machine that runs these tests."""

RULES = """
groups:
  - name: hosts
    rules:
      - alert: HostMemoryUsed
        expr: {used} > 1
        labels: {{severity: critical}}
"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@contextmanager
def node_exporter() -> Iterator[str]:
    """The address of a node_exporter, such as 127.0.0.1:9100."""
    address = f"127.0.0.1:{free_port()}"
    with _running([str(NODE_EXPORTER), f"--web.listen-address={address}"], f"http://{address}/metrics"):
        yield address


@contextmanager
def prometheus(
    place: Path, target: str, *, receiver: str = "127.0.0.1:1", past: Sequence[str] = ()
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prometheus that scrapes this target each second, and sends its alerts there: its URL, and its process.

    `past` is what it knows from before, as OpenMetrics writes it.
    """
    (place / "prometheus.yml").write_text(CONFIG.format(target=target, receiver=receiver))
    (place / "rules.yml").write_text(RULES.format(used=USED))
    if past:
        (place / "past.txt").write_text("\n".join([*past, "# EOF\n"]))
        words = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(place / "past.txt"), str(place / "data")]
        subprocess.run(words, check=True, capture_output=True)
    url = f"http://127.0.0.1:{free_port()}"
    words = [
        str(PROMETHEUS),
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        f"--web.external-url={url}",
        "--log.level=error",
    ]
    with _running(words, f"{url}/-/ready") as process:
        yield url, process


@contextmanager
def _running(words: Sequence[str], ready: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(ready, process)
            yield process
        finally:
            process.kill()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} has ended"
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} is not ready")
