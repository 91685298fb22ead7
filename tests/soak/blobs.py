"""What a client does with blobs and uploads."""

from tests.soak.asker import SHARED, Asker
from tests.soak.model import Key, Upload
from tests.system.images import noise
from tests.system.wire import digest_of, finished

_COMMON_BLOBS = 8


def common_blobs(seed: str) -> dict[str, bytes]:
    """The blobs that every client pushes, by digest."""
    blobs = (noise(700 * number + 1, f"{seed} common {number}") for number in range(_COMMON_BLOBS))
    return {digest_of(blob): blob for blob in blobs}


class Blobs(Asker):
    """Pushes, mounts and deletions of blobs, and uploads that outlive the daemon."""

    def _push_some_blob(self) -> None:
        content = self._new_content()
        if self._random.random() < 0.3:  # again, perhaps to where it already is
            known = [
                name for repository in self.own for name in self.ledger.names(repository, "blob")
            ]
            if known:
                content = self.ledger.contents[self._random.choice(known)]
        repository = self._random.choice(self.repositories)
        if repository == SHARED and digest_of(content) in self._common():
            repository = self.own[0]
        self._push(repository, content, Key(repository, "blob", digest_of(content)))

    def _common(self) -> dict[str, bytes]:
        blobs = common_blobs(self._seed)
        self.ledger.contents.update(blobs)
        return blobs

    def _push_common_blob(self) -> None:
        digest, content = self._random.choice(list(self._common().items()))
        repository = self._random.choice(self.repositories)
        if repository != SHARED:
            self._push(repository, content, Key(repository, "blob", digest))
            return
        self._commons.sending(digest)
        self._push(SHARED, content, None)
        self._commons.pushed(digest)

    def _mount(self) -> None:
        source = self._random.choice(self.own)
        blobs = self.ledger.names(source, "blob")
        if not blobs:
            return
        digest = self._random.choice(blobs)
        target = self._random.choice([name for name in self.repositories if name != source])
        if target == SHARED and digest in self._common():
            return
        query = f"mount={digest}&from={source}"
        self._ask(
            "mount",
            "POST",
            f"/v2/{target}/blobs/uploads/?{query}",
            changes={Key(target, "blob", digest): "here"},
            status=201,
        )

    def _delete_blob(self) -> None:
        repository = self._random.choice(self.repositories)
        blobs = self.ledger.names(repository, "blob")
        if not blobs:
            return
        digest = self._random.choice(blobs)
        used = self.ledger.users(repository, digest)
        self._ask(
            "delete blob",
            "DELETE",
            f"/v2/{repository}/blobs/{digest}",
            changes={} if used else {Key(repository, "blob", digest): None},
            status=405 if used else 202,
        )

    def _begin_upload(self) -> None:
        repository = self._random.choice(self.own)
        content = self._new_content(64 << 10)
        target = self._ask(
            "upload begun", "POST", f"/v2/{repository}/blobs/uploads/", status=202
        ).location()
        self.ledger.uploads.append(Upload(repository, target, content, digest_of(content)))

    def _go_on_with_upload(self) -> None:
        upload = self._random.choice(self.ledger.uploads)
        offset = upload.acknowledged
        rest = upload.content[offset:]
        if not rest or self._random.random() < 0.2:
            self._finish(upload, rest)
            return
        chunk = rest[: self._random.randrange(len(rest)) + 1]
        upload.sent = offset + len(chunk)
        headers = {"Content-Range": f"{offset}-{upload.sent - 1}"}
        streamed = self._random.random() < 0.3
        self._ask(
            "chunk",
            "PATCH",
            upload.target,
            self._trickle(chunk) if streamed else chunk,
            {} if streamed else headers,
            upload=upload,
            status=202,
        )
        upload.acknowledged = upload.sent

    def _finish(self, upload: Upload, rest: bytes) -> None:
        upload.ending, upload.sent = True, len(upload.content)
        self._ask(
            "upload finished",
            "PUT",
            finished(upload.target, upload.digest),
            rest,
            changes={Key(upload.repository, "blob", upload.digest): "here"},
            upload=upload,
            status=201,
        )
        self.ledger.uploads.remove(upload)

    def _cancel_upload(self) -> None:
        upload = self._random.choice(self.ledger.uploads)
        upload.ending = True
        self._ask("upload cancelled", "DELETE", upload.target, upload=upload, status=204)
        self.ledger.uploads.remove(upload)
