"""The findings of each checker on this host, and the errors for wrong options."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.contracts import Check, CheckStatus
from orchestration.errors import BadInput, Unavailable
from tasks.check.checkers.base import Ceilings, Floors, Subject
from tasks.check.checkers.registry import CHECKERS

PERCENT = st.floats(0, 100, allow_nan=False)


async def run_checker(name: str, **options: Any) -> Check:
    checker = CHECKERS[name]
    return await checker.run(checker.parse(options), Subject.of_this_host())


# Options


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cpu", {"wran": 50}, ["cpu", "'wran'", "crit, interval, per_cpu, warn"]),
        ("cpu", {"warn": 95, "crit": 90}, ["cpu", "warn (95) is above crit (90)"]),
        ("cpu", {"interval": 0}, ["cpu", "'interval'", "0.05"]),
        ("memory", {"warn": "70"}, ["memory", "'warn'", "number", "type str"]),
        ("memory", {"include_swap": "yes"}, ["memory", "'include_swap'", "boolean"]),
        ("memory", {"crit": True}, ["memory", "'crit'", "number"]),
        ("disk", {"paths": "/data"}, ["disk", "'paths'"]),
        ("disk", {"paths": []}, ["disk", "'paths'"]),
        ("disk", {"warn": -1}, ["disk", "'warn'", "-1"]),
        ("disk", {"crit": float("nan")}, ["disk", "'crit'"]),
        ("network", {"warn": 80}, ["network", "warn (80) is above ok (70)"]),
        ("network", {"hosts": ["db-1:port"]}, ["network", "'hosts'", "port from 1 to 65535"]),
        ("network", {"hosts": ["http://db-1/"]}, ["network", "'hosts'"]),
        ("process", {"names": ["nginx", 5]}, ["process", "'names.1'", "string"]),
    ],
)
def test_a_wrong_option_is_named_with_its_checker(name: str, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        CHECKERS[name].parse(options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_wrong_option_does_not_repeat_a_text_that_may_be_secret() -> None:
    with pytest.raises(BadInput) as caught:
        CHECKERS["cpu"].parse({"warn": "s3cret"})
    assert "s3cret" not in str(caught.value)


@given(warn=PERCENT, crit=PERCENT, percent=PERCENT)
def test_a_ceiling_is_reached_at_its_value(warn: float, crit: float, percent: float) -> None:
    warn, crit = sorted((warn, crit))
    status = Ceilings(warn=warn, crit=crit).status_of(percent)
    assert (status is CheckStatus.CRITICAL) == (percent >= crit)
    assert (status is CheckStatus.OK) == (percent < warn)


@given(ok=PERCENT, warn=PERCENT, percent=PERCENT)
def test_a_floor_is_kept_at_its_value(ok: float, warn: float, percent: float) -> None:
    warn, ok = sorted((warn, ok))
    status = Floors(ok=ok, warn=warn).status_of(percent)
    assert (status is CheckStatus.OK) == (percent >= ok)
    assert (status is CheckStatus.CRITICAL) == (percent < warn)


def test_the_defaults_are_those_of_the_specification() -> None:
    of_the_spec = ("cpu", "memory", "disk", "network", "process")
    defaults = {name: CHECKERS[name].parse({}).model_dump() for name in of_the_spec}
    limits = {name: (found["warn"], found.get("crit", found.get("ok"))) for name, found in defaults.items()}
    assert limits == {
        "cpu": (70, 90),
        "memory": (70, 90),
        "disk": (80, 95),
        "network": (50, 70),
        "process": (50, 100),
    }
    assert defaults["disk"]["paths"] == ("/",)


# This host


async def test_cpu_is_a_share_of_all_cores() -> None:
    found = await run_checker("cpu", interval=0.05, warn=100, crit=100)
    assert 0 <= float(str(found.metrics["cpu_percent"])) <= 100
    assert found.metrics["cores"] == psutil.cpu_count()
    assert "per_cpu_percent" not in found.metrics


async def test_cpu_can_be_judged_by_its_busiest_core() -> None:
    found = await run_checker("cpu", interval=0.05, per_cpu=True, warn=0, crit=100)
    cores = found.metrics["per_cpu_percent"]
    assert isinstance(cores, list)
    assert cores.index(max(float(str(core)) for core in cores)) == found.metrics["busiest_core"]
    assert "busiest core" in found.message


async def test_cpu_readings_leave_the_loop_free() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    await run_checker("cpu", interval=0.05)
    ticker.cancel()
    assert ticks > 10


async def test_memory_in_use_is_what_programs_cannot_get() -> None:
    found = await run_checker("memory", warn=0, crit=100)
    assert found.metrics["total_bytes"] == psutil.virtual_memory().total
    assert 0 < float(str(found.metrics["memory_percent"])) < 100
    assert found.status is CheckStatus.WARNING


async def test_memory_and_swap_can_be_judged_together() -> None:
    found = await run_checker("memory", include_swap=True)
    assert 0 < float(str(found.metrics["memory_and_swap_percent"])) < 100


async def test_disk_is_judged_by_its_fullest_path(tmp_path: Path) -> None:
    found = await run_checker("disk", paths=["/", str(tmp_path), "/"], warn=0, crit=0)
    paths = found.metrics["paths"]
    assert isinstance(paths, dict)
    assert set(paths) == {"/", str(tmp_path)}
    assert found.metrics["disk_percent"] == max(usage["percent"] for usage in paths.values())  # type: ignore[index]
    assert found.status is CheckStatus.CRITICAL


async def test_a_path_that_is_not_there_is_an_error() -> None:
    with pytest.raises(Unavailable, match=r"/no/such/path: No such file"):
        await run_checker("disk", paths=["/no/such/path"])


async def test_an_unreadable_path_makes_a_healthy_disk_check_unknown() -> None:
    found = await run_checker("disk", paths=["/", "/no/such/path"], warn=100, crit=100)
    assert found.status is CheckStatus.UNKNOWN
    assert found.error == "/no/such/path: No such file or directory"


async def test_an_unreadable_path_does_not_hide_a_full_disk() -> None:
    found = await run_checker("disk", paths=["/", "/no/such/path"], warn=0, crit=0)
    assert found.status is CheckStatus.CRITICAL
    assert "/no/such/path" in found.message


async def test_no_process_named_is_ok() -> None:
    assert (await run_checker("process")).status is CheckStatus.OK


async def test_processes_are_found_by_their_exact_names() -> None:
    own = psutil.Process().name()
    found = await run_checker("process", names=[own, own, own[:-1] + "\x01"])
    assert found.metrics["running"] == 1
    assert found.metrics["missing"] == [own[:-1] + "\x01"]
    assert found.status is CheckStatus.WARNING


async def test_a_part_of_a_process_name_counts_only_when_asked_for() -> None:
    part = psutil.Process().name()[:-1].upper()
    assert (await run_checker("process", names=[part])).status is CheckStatus.CRITICAL
    assert (await run_checker("process", names=[part], exact_match=False)).status is CheckStatus.OK


@pytest.fixture
def zombie(tmp_path: Path) -> Iterator[str]:
    """The name of a zombie: a process that has ended and that its parent has not waited for."""
    program = tmp_path / "check-zombie"
    program.symlink_to(shutil.which("true") or "/bin/true")
    with subprocess.Popen([program]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        yield program.name


async def test_a_zombie_does_not_run(zombie: str) -> None:
    # psutil reads one name after the other: a process of another test may end in between.
    assert zombie in {process.info["name"] for process in psutil.process_iter(["name"])}
    assert (await run_checker("process", names=[zombie])).status is CheckStatus.CRITICAL


async def test_a_process_command_line_is_never_shown() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "1234.5")
    try:
        found = await run_checker("process", names=["sleep", "nginx-of-nowhere"])
        assert found.metrics["counts"] is not None
        assert "1234.5" not in found.model_dump_json()
    finally:
        child.kill()
        await child.wait()


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> Iterator[str]:
    """A port on which nobody listens, reserved for this test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A port whose queue is full: the kernel drops new connections, as a firewall does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for client in waiting:
            client.close()


async def test_an_open_and_a_refused_port_both_show_that_the_host_is_there(listening: str, refusing: str) -> None:
    found = await run_checker("network", hosts=[listening, refusing])
    assert found.metrics["hosts"] == {listening: "open", refusing: "refused"}
    assert found.status is CheckStatus.OK


async def test_a_silent_host_and_an_unknown_name_are_unreachable(listening: str, silent: str) -> None:
    found = await run_checker("network", hosts=[listening, silent, "no-such-host.invalid"], timeout=1.0)
    assert found.metrics["unreachable"] == [silent, "no-such-host.invalid"]
    assert found.status is CheckStatus.CRITICAL
    hosts = found.metrics["hosts"]
    assert isinstance(hosts, dict)
    assert hosts[silent] == "no answer after 1 s"
    assert "no-such-host.invalid" in found.message


async def test_half_of_the_hosts_is_a_warning(refusing: str) -> None:
    found = await run_checker("network", hosts=[refusing, "no-such-host.invalid"], timeout=5.0)
    assert (found.metrics["reachable_percent"], found.status) == (50.0, CheckStatus.WARNING)


async def test_a_host_without_a_port_is_there_when_any_usual_port_answers() -> None:
    assert (await run_checker("network", hosts=["localhost", "127.0.0.1", "::1"], ok=60)).status is CheckStatus.OK


async def test_the_default_looks_no_further_than_this_hosts_own_surroundings() -> None:
    found = await run_checker("network")
    hosts = found.metrics["hosts"]
    assert isinstance(hosts, dict)
    assert hosts
    assert all(label.split()[0] in ("gateway", "name", "loopback") for label in hosts)
