"""Pages: how many, from where on, and the link to the next."""

from urllib.parse import parse_qsl, urlsplit

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.errors import PAGINATION_INVALID
from appliance.protocol.paging import PAGE_MAX, Page, next_link
from tests.refused import attempt, refused


@pytest.mark.parametrize(
    ("number", "last", "page"),
    [
        (None, None, Page(PAGE_MAX, "")),
        (None, "a", Page(PAGE_MAX, "a")),
        ("10", None, Page(10, "")),
        ("10", "a/b", Page(10, "a/b")),
        ("0", None, Page(0, "")),
        ("007", "", Page(7, "")),
        (str(PAGE_MAX), None, Page(PAGE_MAX, "")),
        (str(PAGE_MAX + 1), None, Page(PAGE_MAX, "")),
        ("9" * 32, None, Page(PAGE_MAX, "")),
    ],
)
def test_a_page_is_what_was_asked_for_within_bounds(
    number: str | None, last: str | None, page: Page
) -> None:
    assert Page.parse(number, last) == page


@pytest.mark.parametrize(
    "number",
    ["", "-1", "+1", "1.5", "1e3", "0x10", " 1", "1\n", "a", "٣", "²", "9" * 33, "9" * 5000],
)
def test_what_is_no_count_is_refused(number: str) -> None:
    with refused(PAGINATION_INVALID, "whole number"):
        Page.parse(number, None)


@given(st.none() | st.text(), st.none() | st.text())
def test_anything_is_a_page_or_refused(number: str | None, last: str | None) -> None:
    found = attempt(lambda: Page.parse(number, last))
    if found is not PAGINATION_INVALID:
        assert isinstance(found, Page)
        assert 0 <= found.limit <= PAGE_MAX
        assert found.last == (last or "")


def test_a_link_leads_to_the_next_page() -> None:
    assert next_link("/v2/_catalog", (("n", "2"), ("last", "a/b"))) == (
        "Link",
        '</v2/_catalog?n=2&last=a%2Fb>; rel="next"',
    )


@given(st.lists(st.tuples(st.sampled_from(["n", "last", "artifactType"]), st.text(min_size=1))))
def test_a_link_carries_any_parameter_unharmed(parameters: list[tuple[str, str]]) -> None:
    name, value = next_link("/v2/a/tags/list", parameters)
    address = value.removeprefix("<").removesuffix('>; rel="next"')
    assert name == "Link"
    assert value.isascii()
    assert not {"<", ">", '"', " ", "\r", "\n"} & set(address)
    assert parse_qsl(urlsplit(address).query) == parameters
