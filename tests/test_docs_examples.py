"""The examples of the documentation, carried out as they stand there: `curl` gets what the page shows."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestration.encryption import load_cipher
from orchestration.local_key import header_path, load_local_key
from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from service.stack import StackAddresses
from tests.api_helpers import serve_api
from tests.receivers import http_receiver
from tests.worker_helpers import eventually, worker_settings, working

ROOT = Path(__file__).parent.parent
HTTP_PAGE = "docs/http.md"
ADDRESS = "http://127.0.0.1:8000"
ID = re.compile(r"[0-9a-f]{32}")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "openssl"))), reason="needs bash, curl and openssl"
)


def examples(page: str) -> Iterator[tuple[str, str]]:
    """The `curl` commands of a page, each with the answer that the page shows."""
    text = (ROOT / page).read_text()
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = one.splitlines()
            end = next(n for n in range(1, len(lines) + 1) if is_whole("\n".join(lines[:n])))
            if lines[0].startswith("curl "):
                yield "\n".join(lines[:end]), "\n".join(lines[end:])


def is_whole(command: str) -> bool:
    """Whether a command ends where it ends: in no quotes, and without a backslash."""
    try:
        return bool(shlex.split(command)) and not command.endswith("\\")
    except ValueError:
        return False


class Session:
    """Somebody who types what a page shows, one command after the other, with the ids that the answers have here."""

    def __init__(self, address: str, settings: Settings) -> None:
        self._address = address
        load_local_key(settings)
        self._key = f"@{header_path(settings)}"
        """What `KEY=@$(alert-pipeline keys local)` sets, the first line of each page."""
        self._ids: dict[str, str] = {}

    async def try_out(self, command: str, shown: str) -> None:
        """Carry out a command until its answer is what is shown: at once, or for a question once the run is over."""
        ours = ID.sub(lambda found: self._ids.get(found[0], found[0]), command).replace(ADDRESS, self._address)
        once = "POST" in command
        said: list[str] = []

        async def fits() -> bool:
            said.append(await shell(re.sub("^curl ", "curl -sS ", ours), KEY=self._key))
            if "curl -i " in command:
                return self._fits_with_head(said[-1], shown)
            return self._fits(said[-1], shown)

        if once:
            assert await fits(), f"{command}\nsays {said[-1]}\nand not {shown}"
        else:
            await eventually(fits, f"{shown} from {command}")

    def _fits_with_head(self, said: str, shown: str) -> bool:
        (head, body), (shown_head, shown_body) = (re.split(r"\r?\n\r?\n", text, maxsplit=1) for text in (said, shown))
        return all(
            any(self._fits(line, wanted) for line in head.splitlines()) for wanted in shown_head.splitlines()
        ) and (self._fits(body, shown_body))

    def _fits(self, said: str, shown: str) -> bool:
        """Whether an answer is the one shown, apart from what `…` leaves out, ids and numbers of incidents."""
        one_line = re.sub(r"\n\s*", "", shown.strip())
        pattern = ""
        for part in re.split(r"(…|[0-9a-f]{32}|\"incident_id\":\"\d+\")", one_line):
            if part == "…":
                pattern += ".*"
            elif ID.fullmatch(part):
                pattern += "([0-9a-f]{32})"
            else:
                pattern += r"\"incident_id\":\"\d+\"" if part.startswith('"incident_id"') else re.escape(part)
        found = re.fullmatch(pattern, said.strip())
        if found is None:
            return False
        # The same id in the page is the same id here, in this answer and in all others.
        return all(
            self._ids.setdefault(theirs, ours) == ours
            for theirs, ours in zip(ID.findall(one_line), found.groups(), strict=True)
        )


async def shell(script: str, **environment: str) -> str:
    """What a script writes to its standard output."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.fixture
async def service(database: Database, home: Path, stack: StackAddresses) -> AsyncIterator[str]:
    """The address of an API with a worker behind it."""
    with http_receiver() as receiver:
        settings = worker_settings(home, receiver)
        async with (
            working(settings, database.url, stack.prefect_api_url),
            serve_api(settings, database.url) as (host, port),
        ):
            yield f"http://{host}:{port}"


@pytest.mark.parametrize("page", ["README.md", HTTP_PAGE])
async def test_curl_gets_what_the_page_shows(service: str, page: str, settings: Settings) -> None:
    assert "\n$ KEY=@$(alert-pipeline keys local)" in (ROOT / page).read_text()
    session = Session(service, settings)
    found = list(examples(page))
    assert found
    for command, shown in found:
        await session.try_out(command, shown)


@pytest.mark.parametrize(
    "call",
    [
        r"-X POST \S+/orchestration/pipeline/ ",
        r"-X POST \S+/orchestration/pipeline/sync/ ",
        r'curl -H "\$KEY" \S+/orchestration/pipeline/[0-9a-f]{32}/$',
        r"curl -H \"\$KEY\" '\S+/orchestration/pipelines/\?status=failed&limit=10'$",
        r"-X POST \S+/orchestration/pipeline/[0-9a-f]{32}/resume/$",
    ],
)
def test_every_call_of_the_specification_has_an_example(call: str) -> None:
    assert any(re.search(call, command) for command, _ in examples(HTTP_PAGE))


async def test_the_signature_of_the_page_is_taken(service: str, database: Database, settings: Settings) -> None:
    (script,) = re.findall(
        r"^```bash\n(.*?X-Signature.*?)^```", (ROOT / HTTP_PAGE).read_text(), re.MULTILINE | re.DOTALL
    )
    name = re.findall("X-Key-Id: ([a-z]+)", script)[0]
    async with database.transaction() as tx:
        key = await keys.create_key(tx, name, [Scope.TRIGGER], load_cipher(settings))

    said = await shell(
        script.replace(ADDRESS, service).replace("curl ", "curl -sS "), SIGNING_SECRET=key.signing_secret
    )

    assert json.loads(said)["status"] == "queued"
