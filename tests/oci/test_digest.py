"""Digests: what is taken, what is not, and why."""

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.digest import ALGORITHMS, Digest, new_hasher
from appliance.oci.errors import DIGEST_INVALID
from tests.refused import attempt, refused

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_a_digest_is_written_as_it_was_read(text: str) -> None:
    digest = Digest.parse(text)
    assert f"{digest.algorithm}:{digest.hex}" == str(digest) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "reads algorithm:hex"),
        ("sha256", "reads algorithm:hex"),
        ("sha256:", "reads algorithm:hex"),
        (":" + "a" * 64, "reads algorithm:hex"),
        ("SHA256:" + "a" * 64, "reads algorithm:hex"),
        (f" {SHA256}", "reads algorithm:hex"),
        (f"{SHA256}\n", "reads algorithm:hex"),
        (f"{SHA256}/..", "reads algorithm:hex"),
        ("sha256:../../etc/passwd", "reads algorithm:hex"),
        ("sha256:" + "٣" * 64, "reads algorithm:hex"),
        ("sha256::" + "a" * 64, "reads algorithm:hex"),
        ("md5:" + "a" * 32, "md5 is not supported; use sha256 or sha512"),
        ("sha384:" + "a" * 96, "sha384 is not supported"),
        ("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8", "is not supported"),
        ("sha256:" + "a" * 63, "64 lower-case hex digits"),
        ("sha256:" + "a" * 65, "64 lower-case hex digits"),
        ("sha256:" + "a" * 128, "64 lower-case hex digits"),
        ("sha512:" + "a" * 64, "128 lower-case hex digits"),
        ("sha256:" + "A" * 64, "64 lower-case hex digits"),
        ("sha256:" + "g" * 64, "64 lower-case hex digits"),
        ("sha256:" + "=" * 64, "64 lower-case hex digits"),
    ],
)
def test_what_is_not_a_digest_is_refused_with_the_reason(text: str, reason: str) -> None:
    with refused(DIGEST_INVALID, reason) as caught:
        Digest.parse(text)
    assert caught.value.details == ({"digest": text},)


def test_an_endless_digest_is_not_repeated_to_the_client() -> None:
    with refused(DIGEST_INVALID) as caught:
        Digest.parse("sha256:" + "a" * 100_000)
    assert len(caught.value.details[0]["digest"]) == 200
    assert len(str(caught.value)) < 300


@given(st.text() | st.from_regex(r"[a-z0-9+._-]*:[0-9a-fA-F]*", fullmatch=True))
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    found = attempt(lambda: Digest.parse(text))
    if found is not DIGEST_INVALID:
        assert isinstance(found, Digest)
        assert str(found) == text
        assert found.algorithm in ALGORITHMS


@given(st.binary())
def test_computing_agrees_with_hashlib_however_the_bytes_arrive(content: bytes) -> None:
    for algorithm in ALGORITHMS:
        expected = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        assert str(Digest.of(content, algorithm)) == expected
        assert Digest.parse(expected) == Digest.of(content, algorithm)
        hasher = new_hasher(algorithm)
        hasher.update(content[:3])
        hasher.update(memoryview(content)[3:])
        assert Digest(algorithm, hasher.hexdigest()) == Digest.of(content, algorithm)


def test_sha256_is_the_usual_algorithm() -> None:
    assert Digest.of(b"").algorithm == ALGORITHMS[0] == "sha256"


@pytest.mark.parametrize("algorithm", ["", "md5", "sha1", "SHA256", "shake_128", "x" * 1000])
def test_hashing_with_another_algorithm_is_refused(algorithm: str) -> None:
    with refused(DIGEST_INVALID, "use sha256 or sha512") as caught:
        new_hasher(algorithm)
    assert len(str(caught.value)) < 200


def test_digests_sort_by_algorithm_and_hex_and_serve_as_keys() -> None:
    first, second, third = Digest.parse(SHA256), Digest.of(b""), Digest.parse(SHA512)
    assert sorted([third, second, first]) == [first, second, third]
    assert {Digest.parse(SHA256): 1}[first] == 1
