import structlog


def pytest_configure() -> None:
    # Log lines are noise in a test that passes; a test that is about them captures its own.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
