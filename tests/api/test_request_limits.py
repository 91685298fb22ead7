"""How many requests are answered, by address and by account."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.api.limits import RequestLimits
from appliance.protocol.rates import BURST_SECONDS
from tests.api.driver import BOB, Answer, Registry, open_registry

BURST = int(BURST_SECONDS)  # of one request a second


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> RequestLimits:
    return RequestLimits(clock=clock)


@pytest.fixture
async def registry(tmp_path: Path, rates: RequestLimits) -> AsyncIterator[Registry]:
    found = open_registry(tmp_path, rates=rates, anonymous=["pull"])
    yield found
    await found.close()


async def statuses(registry: Registry, count: int, client: str = "192.0.2.1") -> list[int]:
    return [(await registry.ask("GET", "/v2/", client=client)).status for _ in range(count)]


def assert_told_to_wait(answer: Answer, seconds: int) -> None:
    assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
    assert answer.headers["retry-after"] == str(seconds)
    assert answer.headers["content-type"] == "application/json"


async def test_without_limits_everything_is_answered(registry: Registry) -> None:
    assert await statuses(registry, 50) == [200] * 50


async def test_an_address_that_asks_too_much_is_told_when_to_come_back(
    registry: Registry, rates: RequestLimits, clock: Clock
) -> None:
    rates.limit(per_address=1, per_account=0)
    assert await statuses(registry, BURST) == [200] * BURST
    assert_told_to_wait(await registry.ask("GET", "/v2/"), 1)
    clock.now += 1
    assert await statuses(registry, 2) == [200, 429]


async def test_the_wait_is_told_in_whole_seconds_rounded_up(
    registry: Registry, rates: RequestLimits, clock: Clock
) -> None:
    rates.limit(per_address=0.1, per_account=0)
    assert await statuses(registry, 1) == [200]
    clock.now += 7.5
    assert_told_to_wait(await registry.ask("GET", "/v2/"), 3)
    clock.now += 2.4
    assert_told_to_wait(await registry.ask("GET", "/v2/"), 1)


async def test_one_address_does_not_use_up_another_s(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0.1, per_account=0)
    assert await statuses(registry, 2, "192.0.2.1") == [200, 429]
    assert await statuses(registry, 1, "192.0.2.2") == [200]


async def test_a_network_of_ipv6_is_one_address_and_mapped_ipv4_another_spelling(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0.1, per_account=0)
    assert await statuses(registry, 1, "2001:db8::1") == [200]
    assert await statuses(registry, 1, "2001:db8::2") == [429]
    assert await statuses(registry, 1, "::ffff:192.0.2.1") == [200]
    assert await statuses(registry, 1, "192.0.2.1") == [429]


@pytest.mark.parametrize(
    ("method", "path", "login"),
    [
        ("GET", "/v2/", None),
        ("GET", "/v2/", ("alice", "wrong")),
        ("GET", "/v2/a/tags/list", None),
        ("GET", "/", None),
        ("GET", "/ca.crt", None),
        ("GET", "/nonsense", None),
        ("DELETE", "/v2/", None),
        ("POST", "/v2/a/blobs/uploads/", BOB),
    ],
)
async def test_every_request_counts_whatever_becomes_of_it(
    registry: Registry,
    rates: RequestLimits,
    method: str,
    path: str,
    login: tuple[str, str] | None,
) -> None:
    rates.limit(per_address=0.1, per_account=0)
    assert (await registry.ask(method, path, login=login)).status != 429
    assert_told_to_wait(await registry.ask(method, path, login=login), 10)


async def test_whoever_watches_the_daemon_is_never_refused(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0.1, per_account=0.1)
    assert await statuses(registry, 2) == [200, 429]
    for path in ("/healthz", "/readyz"):
        for method in ("GET", "HEAD"):
            assert (await registry.ask(method, path, login=None)).status == 200
            assert (await registry.ask(method, path)).status == 200


async def test_an_account_is_limited_wherever_it_asks_from(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0, per_account=1)
    for number in range(BURST):
        assert await statuses(registry, 1, f"192.0.2.{number}") == [200]
    assert_told_to_wait(await registry.ask("GET", "/v2/", client="192.0.2.99"), 1)
    assert (await registry.ask("GET", "/v2/", login=BOB)).status == 200


async def test_whoever_only_claims_to_be_an_account_does_not_use_up_its_requests(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0, per_account=0.1)
    for _ in range(3):
        assert (await registry.ask("GET", "/v2/", login=("alice", "wrong"))).status == 401
    assert await statuses(registry, 2) == [200, 429]


async def test_who_has_no_account_counts_by_address_alone(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0, per_account=0.1)
    for _ in range(3):
        assert (await registry.ask("GET", "/v2/a/tags/list", login=None)).status == 404


async def test_a_body_that_is_refused_is_not_stored(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0.1, per_account=0)
    opened = await registry.ask("POST", "/v2/a/blobs/uploads/")
    refused = await registry.ask("PATCH", opened.headers["location"], body=b"bytes")
    assert_told_to_wait(refused, 10)
    rates.limit(per_address=0, per_account=0)
    found = await registry.ask("GET", opened.headers["location"])
    assert found.headers["range"] == "0-0"


async def test_counting_goes_on_under_a_limit_that_stays_and_anew_under_one_that_changes(
    registry: Registry, rates: RequestLimits
) -> None:
    rates.limit(per_address=0.1, per_account=0.1)
    assert await statuses(registry, 2) == [200, 429]
    rates.limit(per_address=0.1, per_account=0.1)
    assert await statuses(registry, 1) == [429]
    rates.limit(per_address=0.05, per_account=0.05)
    assert await statuses(registry, 2) == [200, 429]
