"""Parts of blobs (RFC 9110, 14)."""

import re
from collections.abc import Iterator

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Repository
from tests.conformance.content import unique

_SIZE = 2048


@pytest.fixture
def data() -> bytes:
    return unique(_SIZE)


@clause("range-one")
@pytest.mark.parametrize(
    ("span", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, _SIZE - 1),
        ("bytes=-500", _SIZE - 500, _SIZE - 1),
        ("bytes=-5000", 0, _SIZE - 1),
        ("bytes=2000-5000", 2000, _SIZE - 1),
        ("bytes=2047-2047", 2047, 2047),
    ],
)
def test_the_bytes_that_were_asked_for_come(
    repository: Repository, data: bytes, span: str, first: int, last: int
) -> None:
    answer = repository.get_blob(repository.push_blob(data), span).expect(206)
    assert answer.body == data[first : last + 1]
    assert answer.header("Content-Range") in {
        f"bytes {first}-{last}/{_SIZE}",
        f"bytes {first}-{last}/*",
    }
    assert answer.header("Content-Length") == str(last - first + 1)


@clause("range-one")
def test_the_bytes_of_a_blob_of_sha256_come_with_its_digest(
    repository: Repository, data: bytes
) -> None:
    digest = repository.push_blob(data)
    answer = repository.get_blob(digest, "bytes=1-2").expect(206)
    assert answer.headers.get("Docker-Content-Digest", digest) == digest


@clause("sha512-put")
def test_the_bytes_of_a_blob_of_sha512_come(repository: Repository, data: bytes) -> None:
    digest = repository.push_blob(data, "sha512")
    assert repository.get_blob(digest, "bytes=9-").expect(206).body == data[9:]


@clause("range-beyond")
@pytest.mark.parametrize("span", ["bytes=2048-", "bytes=5000-10000", "bytes=2048-2048", "bytes=-0"])
def test_what_lies_past_the_end_is_refused(repository: Repository, data: bytes, span: str) -> None:
    answer = repository.get_blob(repository.push_blob(data), span).expect(416)
    assert answer.headers.get("Content-Range", f"bytes */{_SIZE}") == f"bytes */{_SIZE}"


@clause("range-backward")
def test_what_runs_backward_is_refused(repository: Repository, data: bytes) -> None:
    answer = repository.get_blob(repository.push_blob(data), "bytes=500-0").expect(416, 200)
    assert answer.status == 416 or answer.body == data


@clause("range-condition")
def test_a_range_holds_while_the_content_is_what_it_was(
    repository: Repository, data: bytes
) -> None:
    digest = repository.push_blob(data)
    whole = repository.get_blob(digest).expect(200)
    url = repository.url(f"blobs/{digest}")

    def conditional(validator: str) -> Answer:
        headers = {"Range": "bytes=1-2", "If-Range": validator}
        return repository.registry.ask("GET", url, headers=headers)

    assert conditional('"another"').expect(200).body == data
    # Without a strong validator there is nothing to go by.
    entity_tag = whole.headers.get("ETag", "W/")
    if not entity_tag.startswith("W/"):
        assert conditional(entity_tag).expect(206).body == data[1:3]


@clause("range-ignored")
def test_a_range_of_unknown_units_is_ignored(repository: Repository, data: bytes) -> None:
    answer = repository.get_blob(repository.push_blob(data), "lines=1-2").expect(200)
    assert answer.body == data


@clause("range-ignored")
@pytest.mark.parametrize("span", ["bytes=1-2", "bytes=5000-"])
def test_a_range_means_nothing_to_head(repository: Repository, data: bytes, span: str) -> None:
    url = repository.url(f"blobs/{repository.push_blob(data)}")
    answer = repository.registry.ask("HEAD", url, headers={"Range": span}).expect(200)
    assert answer.header("Content-Length") == str(_SIZE)


def parts(answer: Answer) -> Iterator[tuple[str, bytes]]:
    """Take an answer of several parts apart: each with its Content-Range (RFC 9110, 14.6)."""
    stated = answer.header("Content-Type")
    found = re.fullmatch(r'multipart/byteranges\s*;\s*boundary="?([^"]+)"?', stated, re.IGNORECASE)
    assert found is not None, f"{stated} is not multipart/byteranges"
    mark = b"--" + found[1].encode()
    pieces = (b"\r\n" + answer.body).split(b"\r\n" + mark)
    assert pieces[-1].startswith(b"--")
    for piece in pieces[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        lowered = {name.lower(): value for name, value in fields.items()}
        yield lowered["content-range"], body


@clause("range-several")
@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("bytes=0-9,1000-1099", [(0, 9), (1000, 1099)]),
        ("bytes=0-0, 1000-1000, -1", [(0, 0), (1000, 1000), (2047, 2047)]),
        ("bytes=100-149, 5000-6000, 900-949", [(100, 149), (900, 949)]),
    ],
)
def test_several_ranges_come_in_several_parts(
    repository: Repository, data: bytes, span: str, expected: list[tuple[int, int]]
) -> None:
    answer = repository.get_blob(repository.push_blob(data), span).expect(206)
    assert list(parts(answer)) == [
        (f"bytes {first}-{last}/{_SIZE}", data[first : last + 1]) for first, last in expected
    ]


@clause("range-beyond")
def test_several_ranges_that_all_lie_past_the_end_are_refused(
    repository: Repository, data: bytes
) -> None:
    repository.get_blob(repository.push_blob(data), "bytes=3000-3001,4000-").expect(416)
