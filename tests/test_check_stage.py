"""The check stage: all checkers at once, broken ones told apart from unhealthy ones, nothing that hangs holds it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orchestration.contracts import Check, CheckStatus, StageContext
from orchestration.errors import BadInput, BadSetting, Unavailable
from orchestration.settings import Settings, load_settings
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import CheckerConfig, local_checker
from tasks.check.stage import CheckConfig, check

CONTEXT = StageContext(trace_id="trace", run_id="run")


class NoOptions(CheckerConfig):
    """A checker without options."""


def config_of(timeout_seconds: float = 5.0, **runs: Callable[[NoOptions], Awaitable[Check]]) -> CheckConfig:
    checkers = {name: local_checker(name, NoOptions, run) for name, run in runs.items()}
    return CheckConfig(names=tuple(checkers), timeout_seconds=timeout_seconds, checkers=checkers)


def finding(status: CheckStatus) -> Callable[[NoOptions], Awaitable[Check]]:
    async def run(config: NoOptions) -> Check:
        return Check(name="its own", status=status, message=f"it is {status}")

    return run


def read(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A file whose opening blocks, in the kernel, until somebody writes: as a disk that does not answer."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    # Whoever still waits is let go.
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def settings(**values: object) -> Settings:
    return load_settings(dict(values))


async def test_the_default_checks_look_at_this_host() -> None:
    result = await check(CONTEXT, CheckConfig.from_settings(settings()))
    assert [found.name for found in result.checks] == ["cpu", "memory", "disk", "network", "process"]
    assert result.checks_run == 5
    assert result.checks_passed + result.checks_failed == 5
    assert result.errors == []
    assert set(result.timings) == {"cpu", "memory", "disk", "network", "process"}
    assert all(milliseconds > 0 for milliseconds in result.timings.values())
    assert all(found.message for found in result.checks)


async def test_an_unhealthy_check_is_data_and_no_error() -> None:
    config = config_of(a=finding(CheckStatus.OK), b=finding(CheckStatus.WARNING), c=finding(CheckStatus.CRITICAL))
    result = await check(CONTEXT, config)
    assert [found.name for found in result.checks] == ["a", "b", "c"]
    assert (result.checks_run, result.checks_passed, result.checks_failed, result.errors) == (3, 1, 2, [])


async def test_a_broken_check_is_an_error_and_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(config: NoOptions) -> Check:
        raise PermissionError("may not look")

    with caplog.at_level(logging.WARNING):
        result = await check(CONTEXT, config_of(broken=broken, fine=finding(CheckStatus.OK)))
    first = result.checks[0]
    assert (first.status, first.error) == (CheckStatus.UNKNOWN, "may not look")
    assert result.errors == ["broken: may not look"]
    assert (result.checks_passed, result.checks_failed) == (1, 1)
    assert "check broken of run run" in caplog.text


async def test_what_does_not_answer_is_said_in_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(config: NoOptions) -> Check:
        raise Unavailable("Prometheus at prom-1:9090 does not answer: Connection refused")

    with caplog.at_level(logging.WARNING):
        result = await check(CONTEXT, config_of(silent=silent))
    (found,) = result.checks
    assert (found.status, found.message) == (
        CheckStatus.UNKNOWN,
        "Prometheus at prom-1:9090 does not answer: Connection refused",
    )
    assert "Traceback" not in caplog.text


async def test_checkers_run_at_once() -> None:
    both_there = asyncio.Barrier(2)

    async def meet(config: NoOptions) -> Check:
        await both_there.wait()
        return Check(name="", status=CheckStatus.OK, message="met")

    result = await check(CONTEXT, config_of(one=meet, two=meet))
    assert result.checks_passed == 2


async def test_a_hanging_disk_times_out_and_the_others_are_reported(fifo: Path) -> None:
    async def hang(config: NoOptions) -> Check:
        await in_daemon_thread(read, fifo)
        raise AssertionError("nobody writes")

    result = await check(CONTEXT, config_of(0.05, hung=hang, fine=finding(CheckStatus.OK)))
    assert result.checks[0].error == "timed out after 0.05 s"
    assert result.checks[0].status is CheckStatus.UNKNOWN
    assert result.checks[1].status is CheckStatus.OK
    assert result.errors == ["hung: timed out after 0.05 s"]


async def test_a_disk_that_hangs_for_many_alerts_holds_one_thread(fifo: Path) -> None:
    async def hang(config: NoOptions) -> Check:
        await in_daemon_thread(read, fifo)
        raise AssertionError("nobody writes")

    await check(CONTEXT, config_of(0.01, hung=hang))
    threads = threading.active_count()
    for _ in range(5):
        await check(CONTEXT, config_of(0.01, hung=hang))
    assert threading.active_count() <= threads


async def test_when_the_disk_answers_again_those_who_wait_get_it(fifo: Path) -> None:
    first = asyncio.create_task(in_daemon_thread(read, fifo))
    second = asyncio.create_task(in_daemon_thread(read, fifo))
    gone = asyncio.create_task(in_daemon_thread(read, fifo))
    await asyncio.sleep(0)
    gone.cancel()
    await in_daemon_thread(fifo.write_bytes, b"back")
    assert await first == await second == b"back"


async def test_a_time_out_of_the_checkers_own_is_told_apart() -> None:
    async def impatient(config: NoOptions) -> Check:
        raise TimeoutError("the host said nothing")

    result = await check(CONTEXT, config_of(impatient=impatient))
    assert result.checks[0].error == "the host said nothing"


async def test_cancelling_the_stage_cancels_its_checkers() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(config: NoOptions) -> Check:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    stage = asyncio.create_task(check(CONTEXT, config_of(wait=wait)))
    await started.wait()
    stage.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stage
    assert cancelled.is_set()


def test_a_hung_check_does_not_keep_the_process_from_ending(fifo: Path) -> None:
    program = f"""
import asyncio, pathlib
from orchestration.threads import in_daemon_thread
async def main():
    try:
        await asyncio.wait_for(in_daemon_thread(pathlib.Path.read_bytes, pathlib.Path({str(fifo)!r})), 0.05)
    except TimeoutError:
        print("gave up")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("gave up\n", "")


def modules_after(imports: str) -> set[str]:
    program = f"import sys, {imports}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.split())


def test_checkers_know_neither_prefect_nor_a_database_nor_http() -> None:
    assert not {"prefect", "sqlalchemy", "httpx"} & modules_after("tasks.check.checkers.registry")


def test_the_stages_know_neither_prefect_nor_http() -> None:
    assert not {"prefect", "httpx"} & modules_after("tasks.check.stage, tasks.analyze.stage, tasks.analyze.local")


# What is checked


def test_a_run_may_choose_its_checkers_and_their_options() -> None:
    config = CheckConfig.from_settings(
        settings(), names=["disk", "cpu", "disk"], configs={"disk": {"paths": ["/", "/tmp"], "warn": 50}}
    )
    assert config.names == ("disk", "cpu")
    assert config.options("disk").model_dump()["paths"] == ("/", "/tmp")
    assert config.options("cpu").model_dump()["warn"] == 70


def test_what_the_operator_skips_stays_skipped() -> None:
    assert CheckConfig.from_settings(settings(checkers_skip="cpu,disk")).names[:3] == ("memory", "network", "process")
    assert CheckConfig.from_settings(settings(checkers_skip="cpu"), names=["cpu", "disk"]).names == ("disk",)
    assert CheckConfig.from_settings(settings(checkers_skip_all=True), names=["cpu"]).names == ()


async def test_no_checker_at_all_is_an_empty_result() -> None:
    result = await check(CONTEXT, CheckConfig.from_settings(settings(checkers_skip_all=True)))
    assert (result.checks_run, result.checks, result.errors) == (0, [], [])


@pytest.mark.parametrize(
    ("names", "configs", "words"),
    [
        (["cpu", "dsik"], None, ["'dsik'", "cpu, disk, dns, http, memory, network"]),
        (None, {"dsik": {}}, ["'dsik'", "cpu, disk, dns, http, memory, network"]),
        (None, {"disk": {"path": "/"}}, ["disk", "'path'"]),
        (["cpu"], {"disk": {"warn": 99}}, ["disk", "warn (99)"]),
        ("cpu", None, ["checker_names", "list"]),
        ([["cpu"]], None, ["unknown checker"]),
        (None, ["disk"], ["checker_configs"]),
        (None, {"disk": "/"}, ["checker_configs"]),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_runs(names: object, configs: object, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        CheckConfig.from_settings(settings(), names=names, configs=configs)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("variable", ["checkers_enabled", "checkers_skip"])
def test_a_wrong_setting_is_the_operators_and_names_the_variable(variable: str) -> None:
    with pytest.raises(BadSetting, match=f"{variable.upper()}: unknown checker 'dsik'"):
        CheckConfig.from_settings(settings(**{variable: "cpu,dsik"}))
