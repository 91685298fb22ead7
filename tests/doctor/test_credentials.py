"""What docker and podman keep of a login, in each of the forms they write."""

import base64
import json
from pathlib import Path

import pytest

from appliance.doctor.credentials import Login, find_login
from appliance.doctor.findings import Report, Status
from appliance.trust.place import Place

PLACE = Place.parse("registry.example:5000")
BASIC = base64.b64encode(b"alice:open:sesame").decode()


def search(tmp_path: Path, kept: object, **variables: str) -> tuple[Login | None, Report]:
    """Look in a docker configuration that says this."""
    (tmp_path / "config.json").write_text(json.dumps(kept))
    report = Report()
    found = {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path), **variables}
    return find_login(PLACE, found, 5, report), report


@pytest.mark.parametrize("name", [PLACE.name, PLACE.url, f"{PLACE.url}/v2/"])
def test_a_password_is_found_by_each_name_of_the_registry(tmp_path: Path, name: str) -> None:
    login, report = search(tmp_path, {"auths": {name: {"auth": BASIC}, "other": {}}})
    assert login == Login("alice", "open:sesame", str(tmp_path / "config.json"))
    assert login.basic == f"Basic {BASIC}"
    assert "sesame" not in repr(login)
    assert not report.findings


def test_no_login_is_no_trouble(tmp_path: Path) -> None:
    assert search(tmp_path, {"auths": {"other.example": {"auth": BASIC}}})[0] is None
    report = Report()
    assert find_login(PLACE, {"HOME": str(tmp_path / "none")}, 5, report) is None
    assert not report.findings


def test_what_podman_keeps_is_found_as_well(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {PLACE.name: {"auth": BASIC}}}))
    login, _ = search(tmp_path, {}, REGISTRY_AUTH_FILE=str(file))
    assert login is not None
    assert login.source == str(file)


@pytest.mark.parametrize("entry", [{"auth": "%%%"}, {"auth": "YWxpY2U="}, {"auth": ""}])
def test_a_login_that_is_none_is_a_fault(tmp_path: Path, entry: dict[str, str]) -> None:
    login, report = search(tmp_path, {"auths": {PLACE.name: entry}})
    assert login is None
    (found,) = report.findings
    assert found.status is Status.FAULT
    assert found.remedy == (f"docker logout {PLACE.name} && docker login {PLACE.name}",)


def test_a_token_for_docker_alone_is_told_of(tmp_path: Path) -> None:
    login, report = search(tmp_path, {"auths": {PLACE.name: {"identitytoken": "hidden"}}})
    assert login is None
    (found,) = report.findings
    assert found.status is Status.UNSEEN
    assert "hidden" not in repr(found)


@pytest.mark.parametrize(
    "kept",
    [
        {"credHelpers": {PLACE.name: "trial"}},
        {"auths": {PLACE.name: {}}, "credsStore": "trial"},
    ],
)
def test_a_helper_is_asked_as_docker_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: object
) -> None:
    helper = tmp_path / "docker-credential-trial"
    helper.write_text(
        f'#!/bin/sh\n[ "$1" = get ] && [ "$(cat)" = {PLACE.name} ] || exit 1\n'
        """echo '{"ServerURL":"x","Username":"alice","Secret":"open sesame"}'\n"""
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    login, report = search(tmp_path, kept)
    assert login == Login("alice", "open sesame", "docker-credential-trial")
    assert not report.findings
    helper.write_text("#!/bin/sh\nexit 1\n")
    login, report = search(tmp_path, kept)
    assert login is None
    assert report.findings[0].status is Status.UNSEEN
