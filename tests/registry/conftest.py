import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.catalogue.database import Database
from appliance.catalogue.records import Catalogue
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: what is durable when is the business of the adapters' tests."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore | MemoryStore:
    if request.param == "memory":
        return MemoryStore()
    files = FileStore(tmp_path)
    files.prepare()
    return files


@pytest.fixture
async def catalogue(tmp_path: Path) -> AsyncIterator[Catalogue]:
    database = Database.open(tmp_path / "catalogue.sqlite3")
    database._writer.execute("PRAGMA synchronous = OFF")
    yield Catalogue(database)
    await database.aclose()
