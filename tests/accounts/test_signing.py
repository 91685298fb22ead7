"""The keys that tokens are signed with: what reads what, and for how long."""

import json
from pathlib import Path

import pytest

from appliance.accounts.signing import ROTATE_SECONDS, SigningKeyError, SigningKeys
from appliance.protocol.claims import REFRESH_SECONDS, Claims
from appliance.protocol.scopes import parse_scopes

NOW = 1_800_000_000
CLAIMS = Claims(
    "alice", "a1", "access", NOW, NOW + 60, parse_scopes(["repository:a/b:pull"]), "1", "a job"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "token-keys.json"


def ages(path: Path, now: float) -> list[float]:
    return [now - one["made_at"] for one in json.loads(path.read_bytes())]


def test_what_is_signed_is_read_and_by_the_same_keys_alone(path: Path, tmp_path: Path) -> None:
    keys = SigningKeys.open(path, NOW)
    token = keys.sign(CLAIMS).encode()
    assert SigningKeys.open(path, NOW).read(token) == CLAIMS
    assert SigningKeys.open(tmp_path / "other.json", NOW).read(token) is None
    head, said, signature = token.split(b".")
    assert keys.read(b".".join((head, said[:-2] + b"xx", signature))) is None
    assert keys.read(b".".join((head, said, signature[::-1]))) is None


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    SigningKeys.open(path, NOW)
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_key_takes_over_and_the_old_one_stays_as_long_as_its_tokens(path: Path) -> None:
    keys = SigningKeys.open(path, NOW)
    token = keys.sign(CLAIMS).encode()
    assert not keys.rotate(NOW + ROTATE_SECONDS - 1)
    assert keys.rotate(NOW + ROTATE_SECONDS)
    assert ages(path, NOW + ROTATE_SECONDS) == [0, ROTATE_SECONDS]
    assert SigningKeys.open(path, NOW + ROTATE_SECONDS).read(token) == CLAIMS
    assert keys.sign(CLAIMS).split(".")[0].encode() != token.split(b".")[0]
    later = NOW + ROTATE_SECONDS + REFRESH_SECONDS
    assert keys.rotate(later)
    assert SigningKeys.open(path, later).read(token) is None


def test_a_key_of_the_far_future_does_not_sign_for_ever(path: Path) -> None:
    token = SigningKeys.open(path, NOW + 10 * 365 * 86400).sign(CLAIMS).encode()
    keys = SigningKeys.open(path, NOW)
    assert ages(path, NOW) == [0, 0]
    assert keys.sign(CLAIMS).split(".")[0].encode() != token.split(b".")[0]
    assert keys.read(token) == CLAIMS
    assert not keys.rotate(NOW + 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[{}]", b'[{"id": "1", "made_at": 1, "key": {"kty": "oct", "k": "x"}}]'],
)
def test_what_holds_no_keys_is_told_with_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SigningKeyError, match="remove it, and new ones are made"):
        SigningKeys.open(path, NOW)
    assert path.read_bytes() == content
