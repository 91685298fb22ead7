import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.catalogue.database import Database
from appliance.catalogue.garbage import Garbage
from appliance.catalogue.inspection import Inspection
from appliance.catalogue.past import Past
from appliance.catalogue.records import Catalogue
from appliance.registry.registry import Registry
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
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = Database.open(tmp_path / "catalogue.sqlite3")
    found._writer.execute("PRAGMA synchronous = OFF")
    yield found
    await found.aclose()


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    return Catalogue(database)


@pytest.fixture
def registry(store: FileStore | MemoryStore, database: Database) -> Registry:
    """All use cases over one store, whose disk has room for everything."""
    found = Registry(
        store=store,
        records=Catalogue(database),
        garbage=Garbage(database),
        past=Past(database),
        inspection=Inspection(database),
    )
    found.space.keep_free(0)
    return found
