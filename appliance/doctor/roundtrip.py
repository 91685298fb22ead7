"""A login, a push and a pull of a tiny image, each step of it a finding, and nothing left behind."""

import hashlib
import secrets
from urllib.parse import urlencode, urljoin

import msgspec

from appliance.doctor.asking import Asker
from appliance.doctor.challenge import Challenge
from appliance.doctor.credentials import Login
from appliance.doctor.findings import Report
from appliance.trust.exchange import Answer, NoAnswerError
from appliance.trust.place import Place

LOGIN, PUSH, PULL, DELETE = "login", "push", "pull", "delete"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_FORBIDDEN = (401, 403)  # to somebody who has logged in


class _StepError(Exception):
    """A step did not go well; the message says what was answered, without its final stop."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class _Fault(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Faults(msgspec.Struct):
    errors: list[_Fault] = []


class RoundTrip:
    """One image that goes to a registry and comes back."""

    def __init__(
        self,
        place: Place,
        asker: Asker,
        challenge: Challenge,
        login: Login,
        report: Report,
        *,
        repository: str | None = None,
    ) -> None:
        """Push into this repository, which may have more in it, or else into one of its own."""
        self._place = place
        self._asker = asker
        self._challenge = challenge
        self._login = login
        self._report = report
        mark = secrets.token_hex(6)
        self._is_own = repository is None
        self._repository = repository or f"registry-doctor/{mark}"
        self._tag = f"registry-doctor-{mark}"
        self._headers: dict[str, str] = {}
        layer = secrets.token_bytes(512)
        self._blobs = {_digest(one): one for one in (b"{}", layer)}
        config, content = self._blobs
        self._manifest = msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "artifactType": "application/vnd.registry-doctor.probe",
                "config": {"mediaType": _EMPTY, "digest": config, "size": 2},
                "layers": [
                    {"mediaType": "application/octet-stream", "digest": content, "size": len(layer)}
                ],
            }
        )

    def run(self) -> None:
        """Go all the way, or as far as it goes."""
        if not self._enter():
            return
        name = f"{self._place.name}/{self._repository}:{self._tag}"
        try:
            self._push()
            self._report.ok(PUSH, name, "a tiny image was pushed")
        except (_StepError, NoAnswerError) as error:
            self._tell_no_push(name, error)
            return
        try:
            self._pull()
            self._report.ok(PULL, name, "it came back as it was")
        except (_StepError, NoAnswerError) as error:
            self._report.fault(
                PULL,
                name,
                f"{self._login.account} cannot pull what was pushed: {error}",
                "on the registry's machine:"
                f" registry access explain {self._login.account} {self._repository} pull",
                "and: registry verify",
            )
        self._delete()

    def _tell_no_push(self, name: str, error: _StepError | NoAnswerError) -> None:
        account = self._login.account
        explain = f"registry access explain {account} {self._repository} push"
        if isinstance(error, _StepError) and error.status in _FORBIDDEN:
            self._report.warn(
                PUSH,
                name,
                f"{account} may not push there, so nothing else was tried: {error}",
                f"try where it may: registry doctor {self._place.url} --repository NAME",
                f"or see which rule it is, on the registry's machine: {explain}",
            )
            return
        self._report.fault(
            PUSH,
            name,
            f"{account} cannot push: {error}",
            f"on the registry's machine: {explain}",
            "and: journalctl -u registry -n 50",
        )

    def _enter(self) -> bool:
        subject = f"{self._login.account} at {self._place.name}"
        try:
            if self._challenge.scheme == "bearer":
                self._headers["Authorization"] = f"Bearer {self._token()}"
            elif self._challenge.scheme == "basic":
                self._headers["Authorization"] = self._login.basic
            _expect(self._ask("GET", "/v2/"), 200)
        except (_StepError, NoAnswerError) as error:
            self._report.fault(
                LOGIN,
                subject,
                f"the password from {self._login.source} is not taken: {error}",
                f"docker login -u {self._login.account} {self._place.name}",
                "on the registry's machine, for another password:"
                f" registry user passwd {self._login.account}",
            )
            return False
        self._report.ok(LOGIN, subject, f"the password from {self._login.source} is right")
        return True

    def _token(self) -> str:
        query = {
            "service": self._challenge.service,
            "account": self._login.account,
            "scope": f"repository:{self._repository}:pull,push,delete",
        }
        url = f"{self._challenge.realm}?{urlencode(query)}"
        answer = self._asker.ask("GET", url, {"Authorization": self._login.basic})
        _expect(answer, 200)
        try:
            told = msgspec.json.decode(answer.body, type=_Token)
        except msgspec.DecodeError:
            raise _StepError("what comes from there is no token") from None
        return told.token or told.access_token

    def _push(self) -> None:
        for digest, content in self._blobs.items():
            started = _expect(self._ask("POST", self._path("blobs/uploads/")), 202)
            place = _joined(self._place.url, started.headers.get("location", ""))
            if not place.startswith(f"{self._place.url}/"):
                raise _StepError(
                    f"it sends uploads elsewhere than to {self._place.url}; a proxy in front has to pass"
                    " on Host and X-Forwarded-Proto"
                )
            target = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': digest})}"
            kind = {"Content-Type": "application/octet-stream"}
            _expect(self._ask("PUT", target, kind, content), 201)
        kind = {"Content-Type": _MANIFEST}
        _expect(self._ask("PUT", self._path(f"manifests/{self._tag}"), kind, self._manifest), 201)

    def _pull(self) -> None:
        answer = self._ask("GET", self._path(f"manifests/{self._tag}"), {"Accept": _MANIFEST})
        if _expect(answer, 200).body != self._manifest:
            raise _StepError("the manifest that comes back is another one")
        for digest, content in self._blobs.items():
            if _expect(self._ask("GET", self._path(f"blobs/{digest}")), 200).body != content:
                raise _StepError(f"what comes back for {digest} has other bytes")

    def _delete(self) -> None:
        name = f"{self._place.name}/{self._repository}"
        digest = _digest(self._manifest)
        try:
            # Whole repositories are for administrators to delete, and not in every registry.
            if not self._is_own or self._ask("DELETE", f"/v2/{self._repository}/").status != 202:
                _expect(self._ask("DELETE", self._path(f"manifests/{digest}")), 202)
        except (_StepError, NoAnswerError) as error:
            self._report.warn(
                DELETE,
                name,
                f"{self._login.account} may not delete, so the tiny image stays there: {error}",
                f"on the registry's machine: registry rm --yes {self._repository}{'' if self._is_own else f'@{digest}'}",
            )
            return
        self._report.ok(DELETE, name, "the tiny image is gone again")

    def _path(self, rest: str) -> str:
        return f"/v2/{self._repository}/{rest}"

    def _ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        return self._asker.ask(method, target, self._headers | (headers or {}), body)


def _expect(answer: Answer, status: int) -> Answer:
    if answer.status == status:
        return answer
    try:
        faults = msgspec.json.decode(answer.body, type=_Faults).errors
    except msgspec.DecodeError:
        faults = []
    said = "; ".join(f"{fault.code}, {fault.message}" for fault in faults)
    raise _StepError(f"{answer.status} {said[:300]}".strip(), answer.status)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(f"{url}/", location)
    except ValueError:
        return ""


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
