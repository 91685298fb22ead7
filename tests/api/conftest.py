from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.driver import Registry, open_registry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    found = open_registry(tmp_path)
    yield found
    await found.close()
