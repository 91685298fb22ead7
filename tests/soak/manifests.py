"""What a client does with manifests and tags."""

import json
from collections.abc import Iterable

from tests.soak.asker import Asker
from tests.soak.model import Key
from tests.system.wire import digest_of

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Manifests(Asker):
    """Pushes of images and indexes, tags that move, and deletions."""

    def _push_image(self) -> None:
        repository = self._random.choice(self.repositories)
        blobs = self.ledger.names(repository, "blob")
        if len(blobs) < 2:
            self._push(
                repository,
                content := self._new_content(),
                Key(repository, "blob", digest_of(content)),
            )
            return
        config, *layers = self._random.sample(
            blobs, self._random.randrange(2, min(len(blobs), 5) + 1)
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._described(config, _CONFIG),
            "layers": [self._described(layer, _LAYER) for layer in layers],
            "annotations": self._annotations(),
        }
        digest = self._document(manifest, (config, *layers))
        self._put(repository, digest, [self._tag()], kind="image", by_tag=True)

    def _push_index(self) -> None:
        repository = self._random.choice(self.repositories)
        manifests = self.ledger.names(repository, "manifest")
        if not manifests:
            return
        chosen = self._random.sample(manifests, min(len(manifests), 3))
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [self._described(manifest, _MANIFEST) for manifest in chosen],
            "annotations": self._annotations(),
        }
        self._put(repository, self._document(index, ()), [self._tag()], kind="index", by_tag=True)

    def _move_tag(self) -> None:
        self._push_known("tag moved", [self._tag()], by_tag=True)

    def _push_with_tags(self) -> None:
        names = self._random.sample(self._tags, self._random.randrange(4))
        self._push_known("push with many tags", names, by_tag=False)

    def _push_known(self, kind: str, tags: list[str], *, by_tag: bool) -> None:
        repository = self._random.choice(self.repositories)
        manifests = self.ledger.names(repository, "manifest")
        if manifests:
            digest = self._random.choice(manifests)
            children = json.loads(self.ledger.contents[digest]).get("manifests", [])
            if all(
                self.ledger.holds(repository, "manifest", child["digest"]) for child in children
            ):
                self._put(repository, digest, tags, kind=kind, by_tag=by_tag)

    def _put(
        self, repository: str, digest: str, tags: list[str], *, kind: str, by_tag: bool
    ) -> None:
        content = self.ledger.contents[digest]
        reference = tags[0] if by_tag else digest
        query = "" if by_tag or not tags else "?" + "&".join(f"tag={tag}" for tag in tags)
        self._ask(
            kind,
            "PUT",
            f"/v2/{repository}/manifests/{reference}{query}",
            content,
            {"Content-Type": json.loads(content)["mediaType"]},
            changes={
                Key(repository, "manifest", digest): "here",
                **{Key(repository, "tag", tag): digest for tag in tags},
            },
            status=201,
        )

    @property
    def _tags(self) -> list[str]:
        return [f"{self.name}-{number}" for number in range(6)]

    def _tag(self) -> str:
        return self._random.choice(self._tags)

    def _described(self, digest: str, media_type: str) -> dict[str, object]:
        content = self.ledger.contents[digest]
        if media_type == _MANIFEST:
            media_type = json.loads(content)["mediaType"]
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _annotations(self) -> dict[str, str]:
        """Make a manifest one of its own; now and then one that is too large for the catalogue."""
        self._made += 1
        about = {"client": self.name, "number": str(self._made)}
        return about | {"filling": "x" * (80 << 10)} if self._random.random() < 0.1 else about

    def _document(self, document: dict[str, object], blobs: Iterable[str]) -> str:
        digest = digest_of(self._keep(json.dumps(document).encode()))
        self.ledger.references[digest] = tuple(blobs)
        return digest

    def _delete_tag(self) -> None:
        repository, tag = self._random.choice(self.repositories), self._tag()
        held = self.ledger.holds(repository, "tag", tag)
        self._ask(
            "delete tag",
            "DELETE",
            f"/v2/{repository}/manifests/{tag}",
            changes={Key(repository, "tag", tag): None},
            status=202 if held else 404,
        )

    def _delete_manifest(self) -> None:
        repository = self._random.choice(self.repositories)
        manifests = self.ledger.names(repository, "manifest")
        if not manifests:
            return
        digest = self._random.choice(manifests)
        tags = [
            key
            for key, value in self.ledger.world.items()
            if (key.repository, key.kind, value) == (repository, "tag", digest)
        ]
        self._ask(
            "delete manifest",
            "DELETE",
            f"/v2/{repository}/manifests/{digest}",
            changes=dict.fromkeys([Key(repository, "manifest", digest), *tags]),
            status=202,
        )

    def _delete_repository(self) -> None:
        repository = self._random.choice(self.own)
        keys = [key for key in self.ledger.world if key.repository == repository]
        self._ask(
            "delete repository",
            "DELETE",
            f"/v2/{repository}/",
            changes=dict.fromkeys(keys),
            status=202 if keys else 404,
        )
