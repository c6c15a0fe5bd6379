"""What is allowed, and how everything else is refused; without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect_warm_worker import AllowedFlows, CannotLoadFlows, Refused
from prefect_warm_worker.job_variables import refuse_job_variables
from prefect_warm_worker.settings import WarmWorkerSettings

FLOWS = """
from pathlib import Path
from prefect import flow

with Path("imported").open("a") as imported:
    imported.write("x")

@flow
async def nightly(): ...

@flow
def hourly(): ...

@flow
def numbers():
    yield 1

def no_flow(): ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with flows, in which the worker is started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etl").mkdir()
    (tmp_path / "etl" / "__init__.py").touch()
    (tmp_path / "etl" / "flows.py").write_text(FLOWS)
    (tmp_path / "broken.py").write_text("import of_nobody\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit('not today')\n")
    return tmp_path


def deployment(entrypoint: str | None, **more: Any) -> DeploymentResponse:
    return DeploymentResponse(name="d", flow_id=uuid4(), entrypoint=entrypoint, **more)


def test_the_setting_has_one_entry_point_a_line_or_between_commas() -> None:
    settings = WarmWorkerSettings(flows=" a.b , etl/c.py:d\n# all of them\ne.f # nightly\n,\n")
    assert settings.entrypoints() == ["a.b", "etl/c.py:d", "e.f"]


def test_each_setting_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name, field in WarmWorkerSettings.model_fields.items():
        default = f"`{field.default}`" if field.default else "none"
        assert f"| `WARM_WORKER_{name.upper()}` | {default} | {field.description} |" in readme


def test_flows_of_one_file_are_imported_once_and_found_however_they_are_written(project: Path) -> None:
    allowed = AllowedFlows.load(["etl/flows.py:nightly", "etl/flows.py:hourly"])
    assert (project / "imported").read_text() == "x"

    elsewhere = {"entrypoint": "flows.py:nightly", "path": str(project / "etl")}
    pulled = [{"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}]
    for one in (
        deployment("etl/flows.py:nightly"),
        deployment("./etl/../etl/flows.py:nightly"),
        deployment(f"{project}/etl/flows.py:nightly"),
        deployment("etl/flows.py:nightly", pull_steps=pulled),
        deployment(**elsewhere),
    ):
        assert allowed.find(one).name == "nightly"


@pytest.mark.parametrize("written", ["etl.flows.hourly", "etl.flows:hourly"])
def test_a_module_may_be_written_in_both_ways(project: Path, written: str) -> None:
    assert AllowedFlows.load([written]).find(deployment("etl.flows.hourly")).name == "hourly"


@pytest.mark.parametrize(
    "entrypoint",
    [
        "evil.evil",
        "os.system",
        "etl/flows.py:hourly",
        "etl.flows.hourly",
        "../etl/flows.py:nightly",
        "",
        " ",
        None,
        "/etc/passwd.py:x",
        "etl/flows.py:nightly:x",
        "etl/flows.py:",
        "x" * 5000,
    ],
)
def test_everything_else_is_refused_and_not_imported(project: Path, entrypoint: str | None) -> None:
    allowed = AllowedFlows.load(["etl/flows.py:nightly"])
    (project / "imported").unlink()
    with pytest.raises(Refused, match=r"executes the flows etl/flows.py:nightly and nothing else. To allow it") as no:
        allowed.find(deployment(entrypoint))
    assert len(str(no.value)) < 600
    assert not (project / "imported").exists()


def test_a_run_that_wants_its_code_or_folder_from_elsewhere_is_refused(project: Path) -> None:
    allowed = AllowedFlows.load(["etl.flows.nightly", "etl/flows.py:hourly"])
    elsewhere = [{"prefect.deployments.steps.set_working_directory": {"directory": "/srv"}}]
    clone = [{"prefect.deployments.steps.git_clone": {"repository": "https://example.com/x.git"}}]
    for one in (deployment("etl.flows.nightly", pull_steps=elsewhere), deployment("etl/flows.py:hourly", path="/srv")):
        with pytest.raises(Refused, match=r"cannot change its folder to '/srv'.*Start it in that folder"):
            allowed.find(one)
    with pytest.raises(Refused, match=r"does not execute the pull step 'prefect.deployments.steps.git_clone'"):
        allowed.find(deployment("etl.flows.nightly", pull_steps=clone))


@pytest.mark.usefixtures("project")
def test_each_flow_that_cannot_be_imported_is_named_with_its_error() -> None:
    names = ["broken.py:x", "leaves.py:x", "nowhere.py:x", "etl.missing.x", "etl/flows.py:missing"]
    names += ["etl/flows.py:no_flow", "etl/flows.py:numbers", "nonsense", "etl/flows.py:nightly"]
    with pytest.raises(CannotLoadFlows) as no:
        AllowedFlows.load(names)
    first, *lines = str(no.value).splitlines()
    assert first == "These flows of WARM_WORKER_FLOWS cannot be imported:"
    assert [line.split(": ")[0].strip() for line in lines] == names[:-1]
    for word in (
        "of_nobody",
        "broken.py, line 1",
        "not today",
        "there is no file",
        "no_flow is not a flow",
        "generator",
    ):
        assert word in str(no.value)


def test_without_an_allowed_flow_there_is_nothing_to_start() -> None:
    with pytest.raises(CannotLoadFlows, match=r"No flow is allowed.*package.module.flow or path/file.py:flow"):
        AllowedFlows.load([])


POOL = WorkPool(name="p", type="warm-process", base_job_template={}, default_queue_id=uuid4())


@pytest.mark.parametrize(
    ("template", "of_deployment", "of_run", "words"),
    [
        ({}, {"env": {"A": "1"}}, {}, "env to one run, as the job variables of the deployment want"),
        (
            {},
            {},
            {"image": "x", "working_dir": "/"},
            "image, working_dir to one run, as the job variables of the flow run",
        ),
        ({"variables": {"properties": {"command": {"default": "x"}}}}, {}, {}, "of the work pool p want"),
        ({"job_configuration": {"env": {"A": "1"}}, "variables": {}}, {}, {}, "of the work pool p want"),
    ],
)
def test_job_variables_are_refused_and_not_ignored(
    template: dict[str, Any], of_deployment: dict[str, Any], of_run: dict[str, Any], words: str
) -> None:
    pool = POOL.model_copy(update={"base_job_template": template})
    flow_run = FlowRun(flow_id=uuid4(), job_variables=of_run)
    with pytest.raises(Refused, match=words):
        refuse_job_variables(pool, deployment("a.b", job_variables=of_deployment), flow_run)


def test_job_variables_that_say_nothing_are_none() -> None:
    template = {
        "job_configuration": {"env": "{{ env }}", "command": "{{ command }}"},
        "variables": {"properties": {"env": {"default": {}}, "command": {"default": None}}},
    }
    pool = POOL.model_copy(update={"base_job_template": template})
    refuse_job_variables(pool, deployment("a.b", job_variables={"env": {}}), FlowRun(flow_id=uuid4(), job_variables={}))


def test_a_program_may_hand_its_flows_over(project: Path) -> None:
    @flow
    def mine() -> None: ...

    allowed = AllowedFlows({"mine.mine": mine}, how_to_allow="Ask us")
    assert allowed.find(deployment("mine.mine")) is mine
    with pytest.raises(Refused, match="Ask us"):
        allowed.find(deployment("other"))
