from collections.abc import Iterator

import pytest
import structlog


def pytest_configure() -> None:
    # Log lines are noise in a test that passes; a test that is about them captures its own.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Whatever sets logging up for itself does so for itself alone."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
