"""Names, tags and references, as the specification's grammar has them."""

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.digest import Digest
from appliance.oci.errors import DIGEST_INVALID, NAME_INVALID, TAG_INVALID
from appliance.oci.names import NAME_LENGTH_MAX, parse_name, parse_reference, parse_tag
from tests.refused import attempt, refused

# Copied from the OCI Distribution Specification 1.1, "Pulling manifests".
NAME_OF_THE_SPECIFICATION = re.compile(
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
)
TAG_OF_THE_SPECIFICATION = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

NEAR_NAMES = st.text(alphabet="ab09._-/A", max_size=12)


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "0",
        "library/nginx",
        "a/b/c/d/e/f",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a------b",
        "1.2.3/4",
        "blobs/uploads",
        "manifests/tags/list",
        "v2/v2",
        "a" * NAME_LENGTH_MAX,
    ],
)
def test_a_good_name_is_returned_as_given(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../a",
        ".a",
        "a.",
        "a..b",
        "a._b",
        "a___b",
        "-a",
        "a-",
        "_a",
        "a/_catalog",
        "a b",
        "a:b",
        "a@b",
        "a\\b",
        "a\n",
        "\0",
        "a\0b",
        "ä",
        "а",  # Cyrillic
        "٣",
    ],
)
def test_a_bad_name_is_refused(name: str) -> None:
    with refused(NAME_INVALID) as caught:
        parse_name(name)
    assert caught.value.details == ({"name": name},)


@pytest.mark.parametrize("name", ["A", "Library/nginx", "library/NGINX", "É"])
def test_an_upper_case_name_is_told_so(name: str) -> None:
    with refused(NAME_INVALID, "lower case"):
        parse_name(name)


def test_a_name_that_is_too_long_is_told_its_length() -> None:
    with refused(NAME_INVALID, "at most 255 characters, this one 256") as caught:
        parse_name("a" * 256)
    assert "a" * 20 not in str(caught.value)


@given(NEAR_NAMES | st.text())
def test_names_are_those_of_the_specification(text: str) -> None:
    good = NAME_OF_THE_SPECIFICATION.fullmatch(text) is not None
    assert attempt(lambda: parse_name(text)) == (text if good else NAME_INVALID)


@pytest.mark.parametrize("name", ["a" * 255, "a-" * 127, "a/" * 127, "a__" * 85, "-" * 255])
def test_refusing_a_name_does_not_take_for_ever(name: str) -> None:
    # Nested repetition is where regular expressions explode; this ends at once or not at all.
    with refused(NAME_INVALID):
        parse_name(name[:254] + "!")


@pytest.mark.parametrize("tag", ["a", "A", "_", "0", "latest", "v1.2-rc_3", "_.-", "a" * 128])
def test_a_good_tag_is_returned_as_given(tag: str) -> None:
    assert parse_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    ["", ".", "..", "-a", ".a", "a b", "a/b", "a:b", "a+b", "a\n", "ä", "a" * 129, "a" * 9999],
)
def test_a_bad_tag_is_refused(tag: str) -> None:
    with refused(TAG_INVALID) as caught:
        parse_tag(tag)
    assert caught.value.details == ({"tag": tag[:200]},)


@given(st.text(alphabet="aZ0._-: /", max_size=6) | st.text())
def test_tags_are_those_of_the_specification(text: str) -> None:
    good = TAG_OF_THE_SPECIFICATION.fullmatch(text) is not None
    assert attempt(lambda: parse_tag(text)) == (text if good else TAG_INVALID)


def test_a_reference_with_a_colon_is_a_digest_and_without_a_tag() -> None:
    digest = Digest.of(b"")
    assert parse_reference(str(digest)) == digest
    assert parse_reference("latest") == "latest"
    assert parse_reference(digest.hex) == digest.hex
    with refused(DIGEST_INVALID):
        parse_reference("a:b")
    with refused(TAG_INVALID):
        parse_reference("-")
