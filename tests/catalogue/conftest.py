from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.catalogue.database import Database
from appliance.catalogue.records import Catalogue


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = Database.open(tmp_path / "catalogue.sqlite3")
    yield found
    await found.aclose()


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    return Catalogue(database)
