"""Looking whether everything is as it must be, after each restart."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak.actor import Actor
from tests.soak.asker import SHARED
from tests.soak.blobs import common_blobs
from tests.soak.line import Line
from tests.soak.model import Commons, Figures, Key, Ledger, Upload, Violation
from tests.system.daemon import Daemon
from tests.system.wire import Client, digest_of

_ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
}


class Checker:
    """Reads all that may be read, and compares it with the model."""

    def __init__(
        self, actors: Sequence[Actor], commons: Commons, figures: Figures, seed: str
    ) -> None:
        self._actors = actors
        self._commons = commons
        self._figures = figures
        self._seed = seed
        self._swept = False
        self._known_folders: dict[str, int] = {}
        self._known_files: dict[str, tuple[int, int]] = {}

    def check(self, daemon: Daemon, *, swept: bool = False) -> None:
        """Raise Violation for anything that is not as promised; a sweep may take what is not needed."""
        client = daemon.client()
        self._swept = swept
        with ThreadPoolExecutor(len(self._actors)) as pool:
            for _ in pool.map(lambda actor: self._check_ledger(client, actor.ledger), self._actors):
                pass
        line = Line(client)
        try:
            self._check_commons(line)
            self._check_lists(line)
        finally:
            line.close()
        self._check_files(daemon)

    def _check_ledger(self, client: Client, ledger: Ledger) -> None:
        line = Line(client)
        try:
            before = dict(ledger.world)
            reader = Reader(line, ledger)
            found = {key: reader.read(key) for key in sorted(ledger.to_check())}
            if self._swept:
                self._figures.count(self._figures.checks, "blobs swept", ledger.sweep(found))
            outcome = ledger.settle(found)
            self._figures.count(self._figures.checks, "keys", len(found))
            self._figures.count(self._figures.checks, "bytes hashed", reader.hashed)
            if outcome != "nothing":
                self._figures.count(self._figures.checks, f"unanswered requests: {outcome}")
            for upload in list(ledger.uploads):
                self._check_upload(line, ledger, upload, before)
        finally:
            line.close()

    def _check_upload(
        self, line: Line, ledger: Ledger, upload: Upload, before: dict[Key, str]
    ) -> None:
        answer = line.request("GET", upload.target)
        self._figures.count(self._figures.checks, "open uploads")
        key = Key(upload.repository, "blob", upload.digest)
        if answer.status == 404 and upload.ending:
            ledger.uploads.remove(upload)
            return
        if answer.status != 204:
            raise ledger.violation(upload.target, f"an open upload is answered {answer.status}")
        if upload.ending and key not in before and key in ledger.world:
            raise ledger.violation(upload.target, "it is a blob by now, and still open")
        last = int(answer.headers["Range"].removeprefix("0-"))
        # An empty session says 0-0, as one that holds a single byte does.
        possible = range(upload.acknowledged, upload.sent + 1)
        offset = 0 if last == 0 and upload.acknowledged == 0 else last + 1
        if offset not in possible:
            raise ledger.violation(upload.target, f"holds {offset} bytes, not one of {possible}")
        ledger.note(f"after the restart: {offset} bytes", [upload.target])
        upload.acknowledged = upload.sent = offset
        upload.ending = False

    def _check_commons(self, line: Line) -> None:
        found = set()
        for digest, content in common_blobs(self._seed).items():
            answer = line.request("GET", f"/v2/{SHARED}/blobs/{digest}")
            if answer.status == 200:
                found.add(digest)
                if answer.body != content:
                    raise Violation(f"{SHARED}: {digest} has other bytes")
            if answer.status not in {200, 404}:
                raise Violation(f"{SHARED}: {digest}: {answer.status} {answer.body[:500]!r}")
        if (lost := self._commons.sure - found) and not self._swept:
            raise Violation(f"{SHARED}: lost {lost}")
        if invented := found - self._commons.possible:
            raise Violation(f"{SHARED}: nobody pushed {invented}")
        self._figures.count(self._figures.checks, "keys", len(found))
        self._commons.settle(found)

    def _check_lists(self, line: Line) -> None:
        """The lists say what the keys say, neither more nor less."""
        ledgers = [actor.ledger for actor in self._actors]
        repositories = {name for actor in self._actors for name in actor.repositories}
        listed = line.request("GET", "/v2/_catalog?n=1000").expect(200).json()["repositories"]
        filled = sorted(
            name
            for name in repositories
            if any(ledger.names(name, "manifest") for ledger in ledgers)
        )
        if listed != filled:
            raise Violation(f"_catalog: {listed} instead of {filled}")
        for name in repositories:
            answer = line.request("GET", f"/v2/{name}/tags/list?n=1000")
            self._figures.count(self._figures.checks, "lists")
            tags = sorted(tag for ledger in ledgers for tag in ledger.names(name, "tag"))
            exists = name in filled
            if answer.status != (200 if exists else 404):
                raise Violation(f"tags of {name}: {answer.status}; should it exist: {exists}")
            if exists and (answer.json()["tags"] or []) != tags:
                raise Violation(f"tags of {name}: {answer.json()['tags']} instead of {tags}")

    def _check_files(self, daemon: Daemon) -> None:
        """Every file that is named as a blob is that blob, whether or not anything refers to it."""
        for folder in (daemon.storage / "blobs").glob("*/*"):
            changed = folder.stat().st_mtime_ns
            if self._known_folders.get(str(folder)) != changed:
                self._check_folder(folder)
                self._known_folders[str(folder)] = changed

    def _check_folder(self, folder: Path) -> None:
        for path in folder.iterdir():
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns)
            if self._known_files.get(path.name) == mark:
                continue
            if hashlib.new(path.parent.parent.name, path.read_bytes()).hexdigest() != path.name:
                raise Violation(f"{path.name}: a file of {status.st_size} bytes that are not it")
            self._known_files[path.name] = mark
            self._figures.count(self._figures.checks, "files")


class Reader:
    """Finds what a key means now; bytes of a blob are read once, in the first repository."""

    def __init__(self, line: Line, ledger: Ledger) -> None:
        self._line = line
        self._ledger = ledger
        self._read: set[str] = set()
        self._present: set[tuple[str, str]] = set()
        self.hashed = 0

    def read(self, key: Key) -> str | None:
        """What the key means; None when there is nothing."""
        if key.kind == "blob":
            return self._blob(key)
        answer = self._line.request(
            "GET", f"/v2/{key.repository}/manifests/{key.name}", headers=_ACCEPT
        )
        if answer.status == 404:
            return None
        digest = digest_of(answer.body)
        self.hashed += len(answer.body)
        if answer.status != 200 or answer.headers["Docker-Content-Digest"] != digest:
            raise self._ledger.violation(key, f"answered {answer.status}, {answer.body[:500]!r}")
        self._check_whole(key, digest)
        if key.kind == "tag":
            return digest
        if digest != key.name:
            raise self._ledger.violation(key, f"its bytes have digest {digest}")
        return "here"

    def _blob(self, key: Key) -> str | None:
        method = "HEAD" if key.name in self._read else "GET"
        target = f"/v2/{key.repository}/blobs/{key.name}"
        answer = self._line.request(method, target)
        if answer.status == 404:
            if self._line.request("HEAD", target).status != 404:
                raise self._ledger.violation(key, "is said to be there, and cannot be read")
            return None
        size = len(self._ledger.contents[key.name])
        if answer.status != 200 or answer.headers["Content-Length"] != str(size):
            raise self._ledger.violation(
                key, f"answered {answer.status}, length {answer.headers['Content-Length']}"
            )
        if method == "GET":
            self._read.add(key.name)
            self.hashed += size
            if digest_of(answer.body) != key.name:
                raise self._ledger.violation(key, "its bytes have another digest")
        self._present.add((key.repository, key.name))
        return "here"

    def _check_whole(self, key: Key, digest: str) -> None:
        """All that a visible manifest needs is there."""
        if digest not in self._ledger.references:
            raise self._ledger.violation(key, f"means {digest}, which nobody pushed")
        for blob in self._ledger.references[digest]:
            known = (key.repository, blob) in self._present
            if not known and self._blob(Key(key.repository, "blob", blob)) is None:
                raise self._ledger.violation(key, f"is there, and its blob {blob} is not")
