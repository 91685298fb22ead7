"""Operations: their progress is told, they end with whoever asked, and their failures are sentences."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.oci.errors import STORE_UNAVAILABLE
from appliance.operations import (
    SILENCE_MAX,
    Arguments,
    Operation,
    OperatorApplication,
    make_registry,
)
from appliance.parts import DataFolder
from appliance.registry.progress import Progress, Report
from appliance.settings import load


class Client:
    """Somebody who asks for an operation, and what was heard of it."""

    def __init__(self, application: OperatorApplication) -> None:
        self._application = application
        self._leaving = trio.Event()
        self.status = 0
        self.body = b""
        self.ended = False

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    def leave(self) -> None:
        self._leaving.set()

    async def ask(self, name: str, query: str = "", method: str = "POST") -> None:
        await self._application(
            {
                "type": "http",
                "http_version": "1.1",
                "method": method,
                "raw_path": f"/control/{name}".encode(),
                "query_string": query.encode(),
                "headers": [],
            },
            self._receive,
            self._send,
        )

    async def _receive(self) -> Mapping[str, Any]:
        await self._leaving.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._leaving.is_set():
            raise ConnectionResetError
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        self.ended = not message.get("more_body", True)


@pytest.fixture
async def application(tmp_path: Path) -> AsyncIterator[OperatorApplication]:
    settings = load(None, {"REGISTRY_STORAGE_PATH": str(tmp_path)})
    folder = DataFolder(settings, tmp_path / "registry.toml")
    yield OperatorApplication(make_registry(folder, settings), lambda: settings, folder.snapshots)
    await folder.database.aclose()
    folder.release()


def offering(application: OperatorApplication, operation: Operation) -> Client:
    application._operations["work"] = operation
    return Client(application)


async def for_ever(arguments: Arguments, report: Report) -> object:
    return await trio.sleep_forever()


async def test_a_sweep_is_asked_for_and_answers_what_it_removed(
    application: OperatorApplication,
) -> None:
    for name in ("gc", "gc-preview"):
        client = Client(application)
        await client.ask(name)
        nothing = {"manifests": 0, "links": 0, "blobs": 0, "size": 0, "purged": 0}
        assert (client.status, client.lines, client.ended) == (200, [{"result": nothing}], True)


async def test_progress_is_told_while_the_work_goes_on(
    application: OperatorApplication, autojump_clock: MockClock
) -> None:
    async def work(arguments: Arguments, report: Report) -> str:
        for done in range(3):
            report(Progress("working", done, 3, "steps"))
            await trio.sleep(1)
        return f"done as {arguments['how']}"

    client = offering(application, work)
    await client.ask("work", "how=asked")
    told = [line["progress"] for line in client.lines[:-1]]
    assert told == [
        {"doing": "working", "done": done, "total": 3, "unit": "steps"} for done in range(3)
    ]
    assert client.lines[-1] == {"result": "done as asked"}


async def test_a_line_comes_even_where_nothing_changes(
    application: OperatorApplication, autojump_clock: MockClock
) -> None:
    async def work(arguments: Arguments, report: Report) -> None:
        await trio.sleep(2.5 * SILENCE_MAX)

    client = offering(application, work)
    await client.ask("work")
    assert client.lines == [{"progress": None}, {"progress": None}, {"result": None}]


async def test_who_hangs_up_ends_the_work(application: OperatorApplication) -> None:
    client = offering(application, for_ever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, "work")
        await wait_all_tasks_blocked()
        client.leave()
    assert not client.ended


async def test_a_registry_that_stops_ends_the_work_and_says_so(
    application: OperatorApplication,
) -> None:
    client, late = offering(application, for_ever), Client(application)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, "work")
        await wait_all_tasks_blocked()
        await application.stop()
    await late.ask("work")
    for one in (client, late):
        assert (one.lines, one.ended) == ([{"error": "the registry is stopping"}], True)


async def test_once_it_goes_on_after_all_work_is_done_again(
    application: OperatorApplication,
) -> None:
    async def work(arguments: Arguments, report: Report) -> str:
        return "done"

    await application.stop()
    application.resume()
    client = offering(application, work)
    await client.ask("work")
    assert client.lines == [{"result": "done"}]


async def test_what_fails_is_told_in_a_sentence(application: OperatorApplication) -> None:
    async def refused(arguments: Arguments, report: Report) -> None:
        raise STORE_UNAVAILABLE.error("the disk is on fire")

    async def broken(arguments: Arguments, report: Report) -> None:
        raise ZeroDivisionError

    client = offering(application, refused)
    await client.ask("work")
    assert client.lines == [{"error": "the disk is on fire"}]
    client = offering(application, broken)
    await client.ask("work")
    assert client.lines == [{"error": "the registry could not do it; its log tells why"}]


@pytest.mark.parametrize(("method", "name"), [("GET", "gc"), ("POST", "nothing"), ("POST", "")])
async def test_nothing_else_is_an_operation(
    application: OperatorApplication, method: str, name: str
) -> None:
    client = Client(application)
    await client.ask(name, method=method)
    assert client.status == 404
