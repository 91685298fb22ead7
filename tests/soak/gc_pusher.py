"""A client that pushes and takes out, and most of all pushes what is just about to be removed.

It does as real clients do: asks for each blob, skips the upload of those that are there, and puts
the manifest some time later. From the moment at which it asked, what it was told counts for as long
as a lease lasts; up to then a refused manifest is a violation, and so is a blob that is gone.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator

from tests.soak.gc_asker import ACCEPT, Asker
from tests.soak.gc_board import Document, Entry, Image, Scene
from tests.system.images import noise
from tests.system.wire import Client, digest_of, finished

SHARED = "storm/shared"

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_OCTETS = {"Content-Type": "application/octet-stream"}

_COMMON_BLOBS = 24  # that all clients build their images of
_BLOB_MAX = 24 << 10
_TAGS = 6
_ENDED_MAX = 40
_LOOSE_MAX = 30
_SESSIONS_MAX = 3
_ATTEMPTS = 3
_PAUSE_MAX = 0.6  # as a part of a lease: the rest is for the requests themselves


class Pusher(Asker):
    """Pushes to two repositories of its own, and to one that it shares with the others."""

    def __init__(self, number: int, scene: Scene, client: Client) -> None:
        super().__init__(f"pusher-{number}", scene, client)
        self.own = [f"storm/{self.name}/{word}" for word in ("one", "two")]
        self._board = scene.board
        self._made = 0
        self._recipes: dict[str, tuple[int, str]] = {}
        self._common = [self._blob(700 * n + 1, f"common {n}") for n in range(_COMMON_BLOBS)]
        self._told: dict[tuple[str, str], float] = {}
        """Until when content is leased to us that we were told is there."""
        self._ended: deque[Entry] = deque(maxlen=_ENDED_MAX)
        self._loose: deque[tuple[str, str]] = deque(maxlen=_LOOSE_MAX)
        """Blobs that no manifest needed when they came to their repository."""
        self._sessions: list[tuple[str, str, str, int]] = []

    @property
    def repositories(self) -> list[str]:
        """All it pushes to."""
        return [*self.own, SHARED]

    # -- what comes into its head

    def act(self) -> None:
        """Do something, in one request or a few."""
        full = len(self._entries()) > 2 * _TAGS
        self._weighted(
            [
                (self._push_image, 3 if full else 7),
                (self._push_index, 1 if full else 2),
                (self._push_again, 12),
                (self._copy_tag, 1),
                (self._delete_tag, 5 if full else 2),
                (self._delete_manifest, 5 if full else 2),
                (self._delete_repository, 0.3),
                (self._delete_blob, 3),
                (self._mount, 4),
                (self._push_loose, 3),
                (self._ask_for_what_goes, 4),
                (self._begin_upload, 2 if len(self._sessions) < _SESSIONS_MAX else 0),
                (self._go_on_with_upload, 3 if self._sessions else 0),
            ]
        )()
        if len(self._told) > 5000:
            now = time.monotonic()
            self._told = {key: until for key, until in self._told.items() if until > now}

    def _entries(self) -> list[Entry]:
        tags = set(self._tags)
        return [entry for entry in self._board.held() if entry.tag in tags]

    @property
    def _tags(self) -> list[str]:
        return [f"{self.name}-{number}" for number in range(_TAGS)]

    def _push_image(self) -> None:
        repository = self._random.choice(self.repositories)
        self._push(repository, self._random.choice(self._tags), self._image(repository))

    def _push_index(self) -> None:
        repository = self._random.choice(self.repositories)
        children = tuple(self._image(repository, plain=True).top for _ in range(2))
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [_described(one.digest, len(one.content), _MANIFEST) for one in children],
            "annotations": {"made": self._new_name()},
        }
        image = Image(_document(index, ()), children)
        self._push(repository, self._random.choice(self._tags), image)

    def _push_again(self) -> None:
        """Push an image whose parts go about now, best of all while a sweep is at it."""
        lease, now = self._scene.lease_seconds, time.monotonic()
        going = [
            entry
            for entry in self._ended
            if entry.ended_at is not None and 0.7 * lease < now - entry.ended_at < 3 * lease
        ]
        if not going:
            return
        entry = self._random.choice(going)
        if self._random.random() < 0.8:
            self._scene.sweep_begins.wait(1.5)
            time.sleep(self._random.uniform(0, 0.2))
        self._ended.remove(entry)
        self._notice("images pushed again")
        self._push(entry.repository, entry.tag, entry.image, again=True)

    def _copy_tag(self) -> None:
        entries = self._entries()
        if entries:
            entry = self._random.choice(entries)
            self._set_tag(entry.repository, self._random.choice(self._tags), entry.image)

    def _delete_tag(self) -> None:
        if entries := self._entries():
            entry = self._random.choice(entries)
            self._end([entry])
            target = f"/v2/{entry.repository}/manifests/{entry.tag}"
            self._ask("DELETE tag", "DELETE", target, permitted={202})

    def _delete_manifest(self) -> None:
        entries = self._entries()
        if not entries:
            return
        entry = self._random.choice(entries)
        repository, digest = entry.repository, entry.image.top.digest
        # A tag that it has beside this one is one of ours, and on the board, too.
        same = [
            one for one in entries if (one.repository, one.image.top.digest) == (repository, digest)
        ]
        self._end(same)
        self._told.pop((repository, digest), None)
        target = f"/v2/{repository}/manifests/{digest}"
        self._ask("DELETE manifest", "DELETE", target, permitted={202})

    def _delete_repository(self) -> None:
        repository = self._random.choice(self.own)
        entries = [entry for entry in self._entries() if entry.repository == repository]
        self._end(entries)
        self._told = {key: until for key, until in self._told.items() if key[0] != repository}
        permitted = {202} if entries else {202, 404}
        self._ask("DELETE repository", "DELETE", f"/v2/{repository}/", permitted=permitted)

    def _delete_blob(self) -> None:
        repository = self._random.choice(self.own)
        known = [blob for place, blob in self._loose if place == repository]
        for entry in (*self._entries(), *self._ended):
            if entry.repository == repository:
                known += sorted(entry.image.blobs)
        if not known:
            return
        blob = self._random.choice(known)
        held = self._board.holders(repository, blob)
        target = f"/v2/{repository}/blobs/{blob}"
        permitted = {405} if held else {202, 404, 405}
        answer = self._ask("DELETE blob", "DELETE", target, permitted=permitted)
        if answer.status == 404:
            self._insist_that_it_may_be_gone(repository, blob, held)
        elif answer.status == 202:
            self._told.pop((repository, blob), None)

    def _mount(self) -> None:
        """Mount from a repository of ours, or from the one of all, where it may just be going."""
        source = self._random.choice(self.repositories)
        target = self._random.choice([name for name in self.own if name != source])
        blobs = {blob for place, blob in self._loose if place == source}
        for entry in (*self._entries(), *self._ended):
            if entry.repository == source:
                blobs |= entry.image.blobs
        if not blobs:
            return
        blob = self._random.choice(sorted(blobs))
        if self._random.random() < 0.5:
            self._is_there(source, blob)
        held = self._board.holders(source, blob)
        until = self._told.get((source, blob), 0)
        began = time.monotonic()
        path = f"/v2/{target}/blobs/uploads/?mount={blob}&from={source}"
        answer = self._ask("POST mount", "POST", path, permitted={201, 202})
        if answer.status == 201:
            self._lease(target, blob, began)
            self._loose.append((target, blob))
            return
        if until > time.monotonic() or any(entry.held for entry in held):
            raise self._violation(f"{source} has {blob}, and it cannot be mounted", blob)
        self._notice("mounts of what had gone")
        self._finish(target, answer.location(), blob, 0)

    def _push_loose(self) -> None:
        """Push a few blobs that nothing needs yet."""
        repository = self._random.choice(self.repositories)
        for _ in range(3):
            blob = self._new_blob()
            self._upload(repository, blob)
            self._loose.append((repository, blob))

    def _ask_for_what_goes(self) -> None:
        """Ask for blobs that this very sweep removes, and build an image of those it has left."""
        self._scene.sweep_begins.wait(1.5)
        now = time.monotonic()
        going = [key for key in self._loose if 0 < now - self._told.get(key, now) < 1.5]
        if not going:
            return
        repository, _ = self._random.choice(going)
        found = []
        for place, blob in going:
            if place == repository:
                time.sleep(self._random.uniform(0, 0.1))
                there = self._is_there(repository, blob)
                found += [blob] * there
                self._notice(f"blobs going now: {'found' if there else 'gone'}")
        if found:
            tag = self._random.choice(self._tags)
            self._push(repository, tag, Image(self._manifest([self._new_blob(), *found])))

    def _begin_upload(self) -> None:
        repository, blob = self._random.choice(self.own), self._new_blob()
        self._sessions.append((repository, self._begin(repository), blob, 0))

    def _go_on_with_upload(self) -> None:
        """Go on with an upload that may have been open for several sweeps."""
        chosen = self._random.randrange(len(self._sessions))
        repository, target, blob, offset = self._sessions.pop(chosen)
        rest = self._bytes(blob)[offset:]
        if len(rest) > 1 and self._random.random() < 0.5:
            chunk = rest[: self._random.randrange(1, len(rest))]
            target = self._send_chunk(target, offset, chunk)
            self._sessions.append((repository, target, blob, offset + len(chunk)))
            return
        self._finish(repository, target, blob, offset)
        self._loose.append((repository, blob))

    def finish(self) -> None:
        """End what is still open."""
        for _, target, _, _ in self._sessions:
            self._ask("DELETE upload", "DELETE", target, permitted={204})
        self.close()

    # -- pushing

    def _push(self, repository: str, tag: str, image: Image, *, again: bool = False) -> None:
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._notice("pushes begun anew, as they took longer than a lease")
            if self._push_once(repository, tag, image, again=again):
                return

    def _push_once(self, repository: str, tag: str, image: Image, *, again: bool) -> bool:
        for child in image.children:
            # containerd passes over a manifest that is there, with all that it needs.
            if again and self._is_there(repository, child.digest, "manifests"):
                self._notice("manifests about to go: found")
                continue
            self._secure(repository, child.blobs, again=again)
            if not self._put(repository, child, child.digest):
                return False
        self._secure(repository, image.top.blobs, again=again)
        if self._random.random() < 0.4:
            time.sleep(self._random.uniform(0, _PAUSE_MAX) * self._scene.lease_seconds)
        return self._set_tag(repository, tag, image)

    def _set_tag(self, repository: str, tag: str, image: Image) -> bool:
        before = self._board.find(repository, tag)
        if before is not None:
            self._end([before])
        done = self._put(repository, image.top, tag)
        for referrer in image.referrers if done else ():
            if not self._is_there(repository, referrer.digest, "manifests"):
                self._secure(repository, referrer.blobs)
                # What it is about has a tag, so that it stays; a late one is left out.
                done = self._put(repository, referrer, referrer.digest)
        if done:
            self._board.publish(Entry(repository, tag, image))
            self._notice("images pushed")
        elif before is not None:  # the tag has not moved
            self._board.publish(Entry(repository, tag, before.image))
        return done

    def _secure(self, repository: str, blobs: Iterable[str], *, again: bool = False) -> None:
        """See to it that a repository has some blobs."""
        for blob in blobs:
            found = self._is_there(repository, blob)
            if not found:
                self._upload(repository, blob)
            if again:
                self._notice(f"blobs about to go: {'found' if found else 'uploaded again'}")

    def _is_there(self, repository: str, digest: str, kind: str = "blobs") -> bool:
        """Ask, and rely on a yes."""
        held = self._board.holders(repository, digest)
        began = time.monotonic()
        answer = self._ask(
            f"HEAD {kind}",
            "HEAD",
            f"/v2/{repository}/{kind}/{digest}",
            headers=ACCEPT,
            permitted={200, 404},
        )
        if answer.status == 404:
            self._insist_that_it_may_be_gone(repository, digest, held)
            return False
        self._lease(repository, digest, began)
        return True

    def _insist_that_it_may_be_gone(
        self, repository: str, digest: str, held: Iterable[Entry]
    ) -> None:
        left = self._told.get((repository, digest), 0) - time.monotonic()
        if left > 0:
            text = f"{repository}: {digest} has gone, {left:.3f} s before the lease is over"
            raise self._violation(text, digest)
        if any(entry.held for entry in held):
            raise self._violation(f"{repository}: {digest} has gone while in use", digest)

    def _lease(self, repository: str, digest: str, began: float) -> None:
        self._told[repository, digest] = began + self._scene.lease_seconds

    def _put(self, repository: str, document: Document, reference: str) -> bool:
        """Put a manifest; False when it is refused and may be, since all took too long."""
        needed = [*document.blobs, *_listed(document)]
        unheld = [digest for digest in needed if not self._board.holders(repository, digest)]
        until = min((self._told.get((repository, digest), 0) for digest in needed), default=0)
        began = time.monotonic()
        answer = self._ask(
            "PUT manifest",
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            document.content,
            {"Content-Type": document.media_type},
            permitted={201, 400},
        )
        if answer.status == 201:
            self._lease(repository, document.digest, began)
            return True
        if b"MANIFEST_BLOB_UNKNOWN" not in answer.body:
            raise self._violation(f"{reference}: {answer.body[:500]!r}", document.digest)
        left = until - time.monotonic()
        if left > 0 or not unheld:
            text = f"refused, {left:.3f} s before the leases are over: {answer.body[:500]!r}"
            missing = [one["detail"]["digest"] for one in answer.json()["errors"]]
            raise self._violation(f"{repository}:{reference}: {text}", *missing)
        return False

    def _end(self, entries: list[Entry]) -> None:
        self._board.end(entries)
        self._ended.extend(entries)

    # -- blobs

    def _upload(self, repository: str, blob: str) -> None:
        content = self._bytes(blob)
        manner = self._random.choice(["POST", "POST and PUT", "stream", "chunks"])
        began = time.monotonic()
        if manner == "POST":
            path = f"/v2/{repository}/blobs/uploads/?digest={blob}"
            self._ask("POST blob", "POST", path, content, _OCTETS, permitted={201})
            self._lease(repository, blob, began)
            return
        target, offset = self._begin(repository), 0
        if manner == "stream":
            pieces = self._pieces(content)
            answer = self._ask("PATCH stream", "PATCH", target, pieces, _OCTETS, permitted={202})
            target, offset = answer.location(), len(content)
        while manner == "chunks" and len(content) - offset > 1:
            chunk = content[offset : offset + self._random.randrange(1, len(content))]
            target, offset = self._send_chunk(target, offset, chunk), offset + len(chunk)
        self._finish(repository, target, blob, offset)

    def _begin(self, repository: str) -> str:
        path = f"/v2/{repository}/blobs/uploads/"
        return self._ask("POST upload", "POST", path, permitted={202}).location()

    def _send_chunk(self, target: str, offset: int, chunk: bytes) -> str:
        span = {"Content-Range": f"{offset}-{offset + len(chunk) - 1}"}
        headers = _OCTETS | span
        return self._ask("PATCH chunk", "PATCH", target, chunk, headers, permitted={202}).location()

    def _finish(self, repository: str, target: str, blob: str, offset: int) -> None:
        began = time.monotonic()
        rest = self._bytes(blob)[offset:]
        self._ask("PUT blob", "PUT", finished(target, blob), rest, _OCTETS, permitted={201})
        self._lease(repository, blob, began)

    @staticmethod
    def _pieces(content: bytes) -> Iterator[bytes]:
        step = len(content) // 4 + 1
        for offset in range(0, len(content), step):
            yield content[offset : offset + step]

    # -- what it makes

    def _new_name(self) -> str:
        self._made += 1
        return f"{self.name} {self._made}"

    def _new_blob(self) -> str:
        return self._blob(self._random.randrange(1, _BLOB_MAX), self._new_name())

    def _blob(self, size: int, name: str) -> str:
        recipe = (size, f"{self._scene.seed} {name}")
        digest = digest_of(noise(*recipe))
        self._recipes[digest] = recipe
        return digest

    def _bytes(self, blob: str) -> bytes:
        return noise(*self._recipes[blob])

    def _image(self, repository: str, *, plain: bool = False) -> Image:
        loose = [blob for place, blob in self._loose if place == repository]
        layers = self._random.sample(self._common, self._random.randrange(1, 4))
        layers += [self._new_blob() for _ in range(self._random.randrange(3))]
        layers += self._random.sample(loose, min(len(loose), self._random.randrange(3)))
        top = self._manifest([self._new_blob(), *dict.fromkeys(layers)])
        if plain or self._random.random() < 0.8:
            return Image(top)
        about = _described(top.digest, len(top.content), _MANIFEST)
        return Image(top, referrers=(self._manifest([self._new_blob()] * 2, subject=about),))

    def _manifest(self, blobs: list[str], *, subject: dict[str, object] | None = None) -> Document:
        config, *layers = blobs
        sizes = {blob: self._recipes[blob][0] for blob in blobs}
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _described(config, sizes[config], _CONFIG),
            "layers": [_described(layer, sizes[layer], _LAYER) for layer in layers],
            "annotations": {"made": self._new_name()},
        }
        if subject is not None:
            document["subject"] = subject
        return _document(document, tuple(dict.fromkeys(blobs)))


def _described(digest: str, size: int, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _document(document: dict[str, object], blobs: tuple[str, ...]) -> Document:
    content = json.dumps(document).encode()
    return Document(digest_of(content), str(document["mediaType"]), content, blobs)


def _listed(document: Document) -> list[str]:
    entries = json.loads(document.content).get("manifests", [])
    return [entry["digest"] for entry in entries]
