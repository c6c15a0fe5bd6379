"""The floor under the direct engine: workflows of four empty steps, recorded in PostgreSQL by DBOS, in one process.

`python -m bench.dbos_steps URL COUNT` prints JSON: the seconds to the fourth step of workflows that run alone, and the
workflows per second with eight at a time. It is a process of its own, as our worker is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from dbos import DBOS

AT_ONCE = 8
ALONE = 20

_fourth: dict[str, float] = {}


@DBOS.step()
async def nothing() -> None:
    """Do nothing."""


@DBOS.step()
async def arrive(name: str) -> None:
    """Note when the fourth step begins."""
    _fourth[name] = time.perf_counter()


@DBOS.workflow()
async def four_steps(name: str) -> None:
    """Three empty steps, and one that notes the time."""
    await nothing()
    await nothing()
    await nothing()
    await arrive(name)


async def _run(name: str) -> None:
    handle = await DBOS.start_workflow_async(four_steps, name)
    await handle.get_result()


async def measure(count: int) -> dict[str, list[float]]:
    """Seconds to the fourth step, and workflows per second."""
    await asyncio.gather(*(_run(f"warm{number}") for number in range(AT_ONCE)))
    seconds: list[float] = []
    for number in range(ALONE):
        began = time.perf_counter()
        await _run(f"alone{number}")
        seconds.append(_fourth[f"alone{number}"] - began)
    places = asyncio.Semaphore(AT_ONCE)

    async def in_place(name: str) -> None:
        async with places:
            await _run(name)

    rates: list[float] = []
    for turn in range(3):
        began = time.perf_counter()
        await asyncio.gather(*(in_place(f"rate{turn}-{number}") for number in range(count)))
        rates.append(count / (time.perf_counter() - began))
    return {"seconds": seconds, "rates": rates}


def main() -> None:
    """Measure against the database of the first argument, with as many workflows as the second says."""
    url, count = sys.argv[1], int(sys.argv[2])
    DBOS(config={"name": "floor", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    print(json.dumps(asyncio.run(measure(count))))
    DBOS.destroy()


if __name__ == "__main__":
    main()
