"""docs/first-page.md: each of its commands is executed, and prints what the page shows."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from orchestration.local_key import header_path, load_local_key
from orchestration.store.database import Database
from service.stack import StackAddresses
from tests.api_helpers import serve_api
from tests.conftest import Command
from tests.test_docs_examples import shell
from tests.vendors import NTFY_TOPIC, ntfy
from tests.worker_helpers import worker_settings, working

PAGE = (Path(__file__).parent.parent / "docs" / "first-page.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, str]]:
    """The commands of the page with what they print."""
    for block in blocks("console"):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = one.partition("\n")
            yield command, shown


def fits(said: str, shown: str) -> bool:
    """Whether a command says what is shown, apart from what `…` leaves out and from how wide columns are."""
    one, other = (" ".join(text.split()) for text in (said, shown))
    return re.fullmatch(".*".join(map(re.escape, other.split("…"))), one) is not None


def first_lines_fit(body: str) -> bool:
    """Whether the message on the phone is the one that the page shows, apart from its moments."""
    message = json.loads(body)
    (shown,) = blocks("text")
    return fits(
        f"{message['title']}\n{message['message']}…", re.sub(r"[\d-]+ [\d:]+ UTC \([\d:]+ CES?T\)", "…", f"{shown}…")
    )


async def test_the_first_page(
    database: Database, home: Path, stack: StackAddresses, command: Command, tmp_path: Path
) -> None:
    (policy,) = [block for block in blocks("bash") if block.startswith("cat > policy.yml")]
    await shell(f"cd {tmp_path}\n{policy}")
    async with AsyncExitStack() as running:
        phone = running.enter_context(ntfy())
        channel = {"ntfy_url": phone.url, "ntfy_topic": NTFY_TOPIC}
        environment = {name.upper(): value for name, value in channel.items()}
        settings = worker_settings(home, phone.receiver, notify_channels=("ntfy",), **channel)
        await running.enter_async_context(working(settings, database.url, stack.prefect_api_url))
        host, port = await running.enter_async_context(serve_api(settings, database.url))
        for line, shown in commands():
            if line.startswith("KEY="):
                load_local_key(settings)
                continue
            ours = line.replace("policy.yml", f"{tmp_path}/policy.yml").replace("127.0.0.1:8000", f"{host}:{port}")
            if line.startswith("curl "):
                said = await shell(re.sub("^curl ", "curl -sS ", ours), KEY=f"@{header_path(settings)}")
                assert fits(said, shown), said
                _, page = await asyncio.to_thread(phone.receiver.wait_for, 2)
                assert first_lines_fit(page.body.decode())
                continue
            name, *words = shlex.split(ours)
            finished = await asyncio.to_thread(command, name, *words, env=environment)
            said = finished.stdout.replace(f"{tmp_path}/", "")
            assert fits(said, shown), f"{line}\nsays {said}\n{finished.stderr}"
