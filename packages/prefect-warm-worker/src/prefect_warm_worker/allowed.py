"""Which flows a worker runs: those that were named where it was started, and nothing else.

Whoever reaches Prefect's API can make a deployment that names any file and any module of the worker's machine as its
entry point, and importing it would already execute it. So each entry point is only looked up among flows that were
imported at the start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ScriptError
from prefect.utilities.importtools import load_module, load_script_as_module

AnyFlow = Flow[..., Any]

HOW_TO_ALLOW = "To allow it, add it to WARM_WORKER_FLOWS where the worker is started, and start the worker again"

SHOWN_CHARACTERS = 200
"""How much of a name of others is shown in a message."""


class CannotLoadFlows(Exception):
    """No flow is allowed, or one that is allowed cannot be imported."""


class Refused(Exception):
    """A flow run that this worker does not execute; the message says why, and what to do."""


class AllowedFlows:
    """The flows that a worker may run."""

    def __init__(self, flows: Mapping[str, AnyFlow], *, how_to_allow: str = HOW_TO_ALLOW) -> None:
        """`flows` has each flow under its entry point. Relative files are below the working folder."""
        self._how_to_allow = how_to_allow
        self._folder = Path.cwd()
        self._names = sorted(flows)
        self._flows = {self._key(name, self._folder): flow for name, flow in flows.items()}

    @classmethod
    def load(cls, entrypoints: Iterable[str]) -> AllowedFlows:
        """Import each flow once.

        Raises:
            CannotLoadFlows: there is none, or some cannot be imported; the message names each with its error.
        """
        wanted = list(dict.fromkeys(entrypoints))
        if not wanted:
            raise CannotLoadFlows(
                "No flow is allowed, so this worker would run nothing. Set WARM_WORKER_FLOWS to the entry points that "
                "it may run, separated by commas, such as package.module.flow or path/file.py:flow"
            )
        loader = _Loader()
        flows, problems = dict[str, AnyFlow](), list[str]()
        for name in wanted:
            try:
                flows[name] = loader.load(name)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may raise anything when it is imported
                problems.append(f"  {name} : {_cause(error)}")  # `:x:` would be an emoji on Prefect's terminal
        if problems:
            raise CannotLoadFlows("\n".join(["These flows of WARM_WORKER_FLOWS cannot be imported:", *problems]))
        return cls(flows)

    @property
    def names(self) -> list[str]:
        """The entry points, in order."""
        return self._names

    def find(self, deployment: DeploymentResponse) -> AnyFlow:
        """The flow that a deployment names.

        Raises:
            Refused: it is not allowed, or the deployment wants its code or its folder from elsewhere.
        """
        folder = self._pulled_folder(deployment)
        entrypoint = deployment.entrypoint or ""
        if folder is None:
            folder = Path(deployment.path or "") if _is_file(entrypoint) else self._folder
        if (flow := self._flows.get(self._key(entrypoint, folder))) is not None and self._fits(entrypoint, folder):
            return flow
        if self._key(entrypoint, self._folder) in self._flows:
            raise Refused(
                f"This worker cannot change its folder to {_shown(str(folder))} for one run of {_shown(entrypoint)}: "
                f"it runs all in {self._folder}. Start it in that folder, or deploy with `pull: []` and no path"
            )
        raise Refused(
            f"This worker does not execute {_shown(entrypoint)}: it executes the flows {', '.join(self._names)} and "
            f"nothing else. {self._how_to_allow}"
        )

    def _pulled_folder(self, deployment: DeploymentResponse) -> Path | None:
        """The folder that the pull steps of a deployment end in. None means that there are no pull steps.

        Raises:
            Refused: a step does anything else than set the folder.
        """
        folder: Path | None = None
        for step in deployment.pull_steps or []:
            for name, inputs in step.items():
                if name.rsplit(".", 1)[-1] != "set_working_directory" or not isinstance(inputs, dict):
                    raise Refused(
                        f"This worker does not execute the pull step {_shown(name)}: it runs code that it imported "
                        "when it started. Deploy with `pull: []`, install the code where the worker runs, and start "
                        "the worker again after each change"
                    )
                folder = Path(str(cast("dict[str, Any]", inputs).get("directory", "")))
        return folder

    def _fits(self, entrypoint: str, folder: Path) -> bool:
        """Whether the folder is ours, or only says where the file of the flow is."""
        return _is_file(entrypoint) or os.path.normpath(self._folder / folder) == os.path.normpath(self._folder)

    def _key(self, entrypoint: str, folder: Path) -> str:
        """A name of the entry point that does not depend on how it is written."""
        if not _is_file(entrypoint):
            return entrypoint.strip().replace(":", ".")
        path, _, name = entrypoint.rpartition(":")
        return f"{os.path.normpath(self._folder / folder / path)}:{name}"


class _Loader:
    """Imports flows, and each file once."""

    def __init__(self) -> None:
        self._files: dict[Path, ModuleType] = {}
        _add_to_path(Path.cwd())  # as `python -m` does, but not the installed command `prefect`

    def load(self, entrypoint: str) -> AnyFlow:
        found: Any
        if _is_file(entrypoint):
            path, _, name = entrypoint.rpartition(":")
            found = self._load_file(Path(path).resolve())
        else:
            module, _, name = entrypoint.replace(":", ".").rpartition(".")
            if not module:
                raise ValueError("this is neither package.module.flow nor path/file.py:flow")
            found = load_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not isinstance(found, Flow):
            raise TypeError(f"{name} is not a flow: it has no @flow")
        flow = cast("AnyFlow", found)
        if flow.isgenerator:
            raise TypeError(f"{name} is a generator, which no deployment can run")
        return flow

    def _load_file(self, path: Path) -> ModuleType:
        if path not in self._files:
            if not path.is_file():
                raise FileNotFoundError(f"there is no file {path}")
            _add_to_path(path.parent)  # for what the flow imports only when it runs
            self._files[path] = load_script_as_module(str(path))
        return self._files[path]


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _is_file(entrypoint: str) -> bool:
    return ".py:" in entrypoint


def _shown(name: str) -> str:
    shown = repr(name)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


def _cause(error: BaseException) -> str:
    """One line about an error of an import, with its place."""
    if isinstance(error, ScriptError):
        error = error.user_exc
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "importlib" not in code.co_filename and "prefect" not in Path(code.co_filename).parts:
            place = f" ({code.co_filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    if __file__ in place:
        place = ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
