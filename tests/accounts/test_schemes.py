"""The hashes of nginx and Apache, made by the tools that people have."""

import hashlib
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.accounts.htpasswd import PasswordAccounts, PasswordFile
from appliance.accounts.schemes import check_password, parse_hash
from appliance.protocol.credentials import Credentials

PASSWORD = b"open sesame"


def by_openssl(option: str, salt: str = "saltsalt") -> bytes:
    command = ["openssl", "passwd", option, "-salt", salt, "-stdin"]
    return subprocess.run(command, input=PASSWORD, capture_output=True, check=True).stdout.strip()


HASHES: dict[str, Callable[[], bytes]] = {
    "MD5 (apr1)": lambda: by_openssl("-apr1"),
    "SHA-256 crypt with 5000 rounds": lambda: by_openssl("-5"),
    "SHA-512 crypt with 5000 rounds": lambda: by_openssl("-6"),
    "SHA-256 crypt with 1000 rounds": lambda: by_openssl("-5", "rounds=1000$saltsalt"),
    "SHA-512 crypt with 1000 rounds": lambda: by_openssl("-6", "rounds=1000$saltsalt"),
    "SHA-1 without a salt": lambda: b"{SHA}" + b64encode(hashlib.sha1(PASSWORD).digest()),  # noqa: S324
}


@pytest.mark.parametrize("weakness", HASHES)
def test_each_hash_knows_its_password_and_is_told_to_be_weak(weakness: str) -> None:
    stored = HASHES[weakness]()
    assert check_password(PASSWORD, stored)
    for wrong in (b"", b"open sesame ", b"\0", b"a" * 5000, b"\xff\xfe", "émoji 🎉".encode()):
        assert not check_password(wrong, stored)
    found = PasswordFile.parse(b"alice:" + stored)
    assert found.faults == ()
    assert f"a weak hash, {weakness}" in found.weaknesses["alice"]


@pytest.mark.parametrize("weakness", HASHES)
def test_a_made_up_hash_is_of_the_same_kind_and_nobodys(weakness: str) -> None:
    found = parse_hash(HASHES[weakness]())
    assert found is not None
    made_up = parse_hash(found.like().value)
    assert made_up is not None
    assert (made_up.scheme, made_up.effort) == (found.scheme, found.effort)
    assert not made_up.check(PASSWORD)
    assert made_up.value != found.like().value


@pytest.mark.parametrize("weakness", HASHES)
async def test_who_has_one_comes_in_and_others_do_not(tmp_path: Path, weakness: str) -> None:
    path = tmp_path / "htpasswd"
    path.write_bytes(b"alice:" + HASHES[weakness]() + b"\n")
    accounts = PasswordAccounts(path)
    assert await accounts.verify(Credentials("alice", PASSWORD))
    for name, password in (("alice", b"wrong"), ("bob", PASSWORD), ("", b"")):
        assert await accounts.verify(Credentials(name, password)) is None


async def test_a_password_that_was_changed_meanwhile_proves_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_bytes(b"alice:" + by_openssl("-6") + b"\n")
    accounts = PasswordAccounts(path)
    before = await accounts.verify(Credentials("alice", PASSWORD))
    path.write_bytes(b"alice:" + by_openssl("-5") + b"\n")
    assert before != await accounts.generation("alice")
    assert await accounts.verify(Credentials("alice", PASSWORD)) == await accounts.generation(
        "alice"
    )
