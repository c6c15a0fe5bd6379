"""Job variables: what one process cannot give to one run is refused, so that nobody believes that it was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse

from prefect_warm_worker.allowed import Refused


def refuse_job_variables(work_pool: WorkPool, deployment: DeploymentResponse | None, flow_run: FlowRun) -> None:
    """Check that nothing asks for infrastructure of its own.

    Raises:
        Refused: the work pool, the deployment or the flow run sets a variable.
    """
    given = {
        f"the work pool {work_pool.name}": dict(_of_template(work_pool.base_job_template)),
        "the deployment": (deployment.job_variables if deployment is not None else None) or {},
        "the flow run": flow_run.job_variables or {},
    }
    for who, variables in given.items():
        if names := sorted(name for name, value in variables.items() if value):
            raise Refused(
                f"This worker cannot give {', '.join(names)} to one run, as the job variables of {who} want: all runs "
                "share one process. Remove them and set what all runs need where the worker is started, or use a work "
                "pool of another type for this deployment"
            )


def _of_template(template: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values that a work pool sets for all its runs."""
    variables = cast("dict[str, dict[str, Any]]", template.get("variables", {}).get("properties", {}))
    for name, schema in variables.items():
        yield name, schema.get("default")
    for name, value in cast("dict[str, Any]", template.get("job_configuration", {})).items():
        if not (isinstance(value, str) and value.strip().startswith("{{")):
            yield name, value
