"""A worker's duty for definitions that were edited in Prefect into something that cannot run: it reports each once."""

from __future__ import annotations

from collections.abc import Mapping

from orchestration.alert import Severity
from orchestration.engine.run import Services
from orchestration.store import incidents
from service.mirror.definitions import POLICY_BLOCK, SOURCE_BLOCKS
from service.worker.own_alerts import own_alert, own_incident_key, report

_ABOUT = "definition/"


class BrokenBlocks:
    """The broken blocks that this process knows to be reported. The last version that could run goes on running."""

    def __init__(self) -> None:
        self._reported: set[str] | None = None

    async def report(self, services: Services, broken: Mapping[str, str]) -> None:
        """Report what is broken now and was not, and the end of what was. `broken` is name to what is wrong.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._reported is None:
            start = own_incident_key(_ABOUT)
            async with services.database.statement() as tx:
                self._reported = {key.removeprefix(start) for key in await incidents.open_keys(tx, start)}
        for name in sorted(broken.keys() ^ self._reported):
            over = name not in broken
            alert = own_alert(
                f"{_ABOUT}{name}",
                f"{_called(name)} was edited into something that cannot be used",
                "It can be used again." if over else f"The version before the edit counts meanwhile. {broken[name]}",
                over=over,
                severity=Severity.WARNING,
                labels={"definition": name},
            )
            await report(services, alert)
            self._reported ^= {name}


def _called(name: str) -> str:
    # The policy and the mappings are called by the addresses of their blocks.
    if name == POLICY_BLOCK:
        return "The policy"
    kind, slash, rest = name.partition("/")
    return f"The mapping {rest}" if slash and kind == SOURCE_BLOCKS else f"Pipeline definition {name}"
