"""The table of errors against the specification's."""

import pytest

from appliance.oci import errors
from appliance.oci.errors import ErrorRow, RegistryError

ROWS = {name: row for name, row in vars(errors).items() if isinstance(row, ErrorRow)}

# OCI Distribution Specification 1.1, "Error Codes".
CODES_OF_THE_SPECIFICATION = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNSUPPORTED",
}
# Known to docker, which the specification's table leaves out.
CODES_BESIDE_IT = {"TAG_INVALID", "UNKNOWN"}

by_name = pytest.mark.parametrize("name", sorted(ROWS))


def test_the_table_is_found() -> None:
    assert len(ROWS) > 20


@by_name
def test_a_row_has_a_code_that_clients_know(name: str) -> None:
    assert ROWS[name].code in CODES_OF_THE_SPECIFICATION | CODES_BESIDE_IT


@by_name
def test_a_row_has_a_status_that_tells_who_is_at_fault(name: str) -> None:
    row = ROWS[name]
    ours = name == "STORE_FULL" or name.endswith("_UNAVAILABLE")
    assert (500 if ours else 400) <= row.status <= (507 if ours else 429)


@by_name
def test_a_row_has_a_sentence(name: str) -> None:
    message = ROWS[name].message
    assert " " in message
    assert message == message.strip().removesuffix(".")
    assert message.isascii()


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("BLOB_UNKNOWN", 404),
        ("BLOB_UPLOAD_UNKNOWN", 404),
        ("MANIFEST_TOO_LARGE", 413),
        ("MANIFEST_UNKNOWN", 404),
        ("METHOD_UNSUPPORTED", 405),
        ("NAME_UNKNOWN", 404),
        ("RANGE_INVALID", 416),
        ("RANGE_UNSATISFIABLE", 416),
        ("UNAUTHORIZED", 401),
    ],
)
def test_clients_act_on_these_statuses(name: str, status: int) -> None:
    assert ROWS[name].status == status


@by_name
def test_one_row_stands_in_the_table_once(name: str) -> None:
    alike = [other for other, row in ROWS.items() if row == ROWS[name]]
    assert alike == [name]


def test_an_error_says_what_was_wrong_here() -> None:
    error = errors.SIZE_INVALID.error(
        "3 bytes arrived", headers=(("Range", "0-2"),), details=({"size": "3"},)
    )
    assert error.row is errors.SIZE_INVALID
    assert error.message == "3 bytes arrived"
    assert error.headers == (("Range", "0-2"),)
    assert error.details == ({"size": "3"},)
    assert str(error) == "SIZE_INVALID: 3 bytes arrived"


def test_an_error_without_a_message_has_that_of_its_row() -> None:
    error = RegistryError(errors.NAME_UNKNOWN)
    assert error.message == errors.NAME_UNKNOWN.message
    assert (error.headers, error.details) == ((), ())
