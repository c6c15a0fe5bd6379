"""The systemd units in deploy/: systemd accepts them, and they start existing commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from service.cli import main

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/alert-pipeline", str(tmp_path)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # Messages about the machine's own units do not count.
    about_ours = [line for line in verified.stderr.splitlines() if any(unit.stem in line for unit in UNITS)]
    assert about_ours == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_calls_a_units_exposure_ok(unit: Path, tmp_path: Path) -> None:
    """2.0 of 10 at most: "OK", systemd's best word but one."""
    (tmp_path / unit.name).write_text(unit.read_text())
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", str(tmp_path / unit.name)],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unrecognized option" in rated.stderr:
        pytest.skip("this systemd-analyze rates only units that run")
    (exposure,) = re.findall(r"Overall exposure level for .*: ([\d.]+) OK", rated.stdout)
    assert rated.returncode == 0
    assert float(exposure) <= 2.0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_a_unit_writes_is_its_users_alone(unit: Path) -> None:
    text = unit.read_text()
    for line in ("UMask=0077", "StateDirectoryMode=0700", "User=alert-pipeline", "LimitNOFILE=65536"):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_restarts_its_command_without_a_limit(unit: Path) -> None:
    text = unit.read_text()
    assert "Restart=always" in text
    assert "StartLimitIntervalSec=0" in text.partition("[Service]")[0]


@pytest.mark.parametrize(
    "unit", [unit for unit in UNITS if unit.stem.startswith("alert-pipeline")], ids=lambda unit: unit.stem
)
def test_a_unit_starts_an_existing_command(unit: Path) -> None:
    (command,) = re.findall(r"^ExecStart=\S+/alert-pipeline (.*)$", unit.read_text(), re.MULTILINE)
    name, *arguments = shlex.split(command)
    group = typer.main.get_command(main.app)
    found = getattr(group, "commands", {})[name]
    # Only parses the arguments: the command is not called.
    found.make_context(name, arguments)


@pytest.mark.parametrize(
    ("lock", "extra"),
    [("requirements.lock", None), ("requirements-model.lock", "model"), ("requirements-otel.lock", "otel")],
)
def test_the_lock_has_a_hash_for_each_pin_and_names_no_registry(lock: str, extra: str | None) -> None:
    """docs/deployment.md installs from it, with `pip install --require-hashes`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = dict(pin.split("==") for pin in project["tool"]["uv"]["constraint-dependencies"])
    text = (ROOT / lock).read_text()
    locked = {
        name: (version, hashes.count("--hash=sha256:"))
        for name, version, hashes in re.findall(r"^([\w.\-]+)==(\S+)(.*?)(?=^\w|\Z)", text, re.MULTILINE | re.DOTALL)
    }

    assert "://" not in text
    assert [name for name, (_, hashes) in locked.items() if not hashes] == []
    assert {name: version for name, (version, _) in locked.items() if pins.get(name, version) != version} == {}
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    wanted += project["project"]["optional-dependencies"][extra] if extra else []
    ours = set(project["tool"]["uv"]["sources"])  # the packages of this repository have no hash
    assert {re.split(r"[\[><=;]", one)[0] for one in wanted} - ours <= set(locked)
    assert {"execnet", "pytest-xdist"} <= set(pins)
