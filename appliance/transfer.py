"""Images between a registry and OCI layouts, by the registry's own API.

Nothing is visible on either side before all that it needs is there: blobs first, then manifests,
those of an index before the index, then the tag or the entry that names it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from appliance.control import Answer, ControlError, Operator
from appliance.layout import CONTAINERD_NAME, REF_NAME, Draft, Entry, Layout, LayoutError, digest_of
from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.oci.manifest import SIZE_MAX, Manifest, parse_manifest
from appliance.oci.names import parse_name, parse_tag
from appliance.protocol.paging import PAGE_MAX
from appliance.registry.progress import Progress, Report

_MANIFEST_TYPES = {"Accept": "*/*"}
_DEPTH_MAX = 100  # manifests of which each refers to the next


@dataclass(slots=True)
class Moved:
    """What was brought over."""

    names: list[str] = field(default_factory=list)
    blobs: int = 0
    size: int = 0
    """Bytes that had to be brought over; what was there already is not counted."""


class _Collected:
    """Manifests in the order in which they are to be written, and the blobs they need."""

    def __init__(self) -> None:
        self.manifests: dict[Digest, tuple[Descriptor, bytes]] = {}
        self.blobs: dict[Digest, int] = {}

    def add(self, descriptor: Descriptor, content: bytes, manifest: Manifest) -> None:
        self.manifests[descriptor.digest] = (descriptor, content)
        self.blobs.update((blob.digest, blob.size) for blob in manifest.blobs)


def export_images(
    operator: Operator, name: str, tags: Sequence[str], layout: Layout, report: Report
) -> Moved:
    """Write images of a repository into a layout, with what is attached to them.

    Without tags it is all that the repository has. Raises ControlError, LayoutError and OSError.
    """
    source = _Source(operator, name)
    layout.create()
    tops = {tag: source.collect(tag) for tag in tags or source.tags()}
    names = {tag: f"{name}:{tag}" for tag in tops}
    layout.check_names(names)
    missing = {
        digest: size
        for digest, size in source.collected.blobs.items()
        if not layout.has(digest, size)
    }
    moved = Moved(blobs=len(missing))
    for digest in missing:
        with layout.writing(digest) as draft:
            counted = _Counted(draft, moved, sum(missing.values()), report)
            operator.fetch(f"/v2/{name}/blobs/{digest}", counted.take)
    for digest, (_, content) in source.collected.manifests.items():
        if not layout.has(digest, len(content)):
            with layout.writing(digest) as draft:
                draft.take(content)
    for tag, top in tops.items():
        layout.add(_entry(top, {REF_NAME: tag, CONTAINERD_NAME: names[tag]}))
        moved.names.append(names[tag])
    for attached in source.attached:
        layout.add(_entry(attached, {CONTAINERD_NAME: f"{name}@{attached.digest}"}))
    return moved


class _Counted:
    """Takes the pieces of a blob on, and tells how far all of them are."""

    def __init__(self, draft: Draft, moved: Moved, total: int, report: Report) -> None:
        self._draft = draft
        self._moved = moved
        self._total = total
        self._report = report

    def take(self, piece: bytes) -> None:
        self._draft.take(piece)
        self._moved.size += len(piece)
        self._report(Progress("exporting", self._moved.size, self._total, "bytes"))


class _Source:
    """A repository that is read."""

    def __init__(self, operator: Operator, name: str) -> None:
        self._operator = operator
        self._name = name
        self.collected = _Collected()
        self.attached: list[Descriptor] = []

    def tags(self) -> Iterator[str]:
        last = ""
        while True:
            asked = urlencode({"n": PAGE_MAX, "last": last})
            found = self._operator.ask("GET", f"/v2/{self._name}/tags/list?{asked}").document()
            yield from found["tags"]
            if len(found["tags"]) < PAGE_MAX:
                return
            last = found["tags"][-1]

    def collect(self, reference: Digest | str, depth: int = 1) -> Descriptor:
        """Collect a manifest with all that it needs and all that is attached to it."""
        if depth > _DEPTH_MAX:
            raise ControlError(_too_deep(reference))
        if isinstance(reference, Digest) and reference in self.collected.manifests:
            return self.collected.manifests[reference][0]
        answer = self._operator.ask(
            "GET", f"/v2/{self._name}/manifests/{reference}", headers=_MANIFEST_TYPES
        )
        if answer.status != 200:
            answer.document()
        descriptor = Descriptor(
            answer.headers["content-type"],
            Digest.parse(answer.headers["docker-content-digest"]),
            len(answer.body),
        )
        manifest = parse_manifest(answer.body, descriptor.media_type)
        for child in manifest.manifests:
            if self._is_here(child.digest):  # an index need not have all that it lists
                self.collect(child.digest, depth + 1)
        self.collected.add(descriptor, answer.body, manifest)
        for digest in self._referrers(descriptor.digest):
            if digest not in self.collected.manifests:
                self.attached.append(self.collect(digest, depth + 1))
        return descriptor

    def _is_here(self, digest: Digest) -> bool:
        return self._operator.ask("HEAD", f"/v2/{self._name}/manifests/{digest}").status == 200

    def _referrers(self, digest: Digest) -> Iterator[Digest]:
        target: str | None = f"/v2/{self._name}/referrers/{digest}"
        while target is not None:
            answer = self._operator.ask("GET", target)
            for entry in answer.document()["manifests"]:
                yield Digest.parse(entry["digest"])
            target = _next(answer)


def import_images(operator: Operator, layout: Layout, name: str, tag: str, report: Report) -> Moved:
    """Push the images of a layout into a repository, under their own tags or under `tag`.

    Without a name, each goes where its annotation says. Raises ControlError and LayoutError.
    """
    entries = layout.entries()
    targets = [_target(entry, name) for entry in entries]
    if not entries:
        raise LayoutError(f"{layout.folder} has no images")
    if tag:
        tagged = [at for at, (_, label) in enumerate(targets) if label] or range(len(entries))
        if len(tagged) != 1:
            raise LayoutError(
                f"{layout.folder} has {len(tagged)} images, for which one tag will not do; give"
                f" {name} alone, and they keep their own tags"
            )
        targets[tagged[0]] = (name, tag)
    moved = Moved()
    for entry, (repository, label) in zip(entries, targets, strict=True):
        _Target(operator, layout, repository, moved, report).push(entry, label)
        if label:
            moved.names.append(f"{repository}:{label}")
    return moved


class _Target:
    """A repository that is written."""

    def __init__(
        self, operator: Operator, layout: Layout, name: str, moved: Moved, report: Report
    ) -> None:
        self._operator = operator
        self._layout = layout
        self._name = name
        self._moved = moved
        self._report = report

    def push(self, entry: Entry, tag: str) -> None:
        collected = _Collected()
        self._collect(digest_of(entry), entry.media_type, collected)
        missing = [
            digest
            for digest in collected.blobs
            if self._operator.ask("HEAD", f"/v2/{self._name}/blobs/{digest}").status != 200
        ]
        for digest in missing:
            with self._layout.open(digest) as file:
                asked = urlencode({"digest": str(digest)})
                target = f"/v2/{self._name}/blobs/uploads/?{asked}"
                self._operator.ask("POST", target, file).document()
            self._moved.blobs += 1
            self._moved.size += collected.blobs[digest]
            self._report(Progress("importing", self._moved.size, unit="bytes"))
        for digest, (descriptor, _) in collected.manifests.items():
            is_top = str(digest) == entry.digest
            # Not by the tag alone: its digest may be of another algorithm than the usual one.
            tagged = f"?{urlencode({'tag': tag})}" if is_top and tag else ""
            with self._layout.open(digest) as file:
                self._operator.ask(
                    "PUT",
                    f"/v2/{self._name}/manifests/{digest}{tagged}",
                    file,
                    {"Content-Type": descriptor.media_type},
                ).document()

    def _collect(
        self, digest: Digest, media_type: str, collected: _Collected, depth: int = 1
    ) -> None:
        if digest in collected.manifests:
            return
        if depth > _DEPTH_MAX:
            raise LayoutError(_too_deep(digest))
        content = self._layout.read(digest, SIZE_MAX)
        try:
            manifest = parse_manifest(content, media_type)
        except RegistryError as error:
            raise LayoutError(f"{self._layout.path(digest)}: {error.message}") from None
        for child in manifest.manifests:
            if self._layout.has(child.digest, child.size):  # what it lacks, the registry judges
                self._collect(child.digest, child.media_type, collected, depth + 1)
        collected.add(Descriptor(media_type, digest, len(content)), content, manifest)


def _target(entry: Entry, name: str) -> tuple[str, str]:
    """Return the repository and the tag, if any, that an entry is for; `name` comes first.

    Raises LayoutError where it has neither that nor a name of its own.
    """
    label = entry.annotations.get(REF_NAME, "")
    whole = entry.annotations.get(CONTAINERD_NAME, label if {"/", ":"} & set(label) else "")
    named, at, _ = whole.partition("@")
    path, _, own = (named, "", "") if at else named.rpartition(":")
    if not label or label == whole:
        label = own
    if not name:
        first, slash, rest = path.partition("/")
        is_host = bool(slash) and (bool({".", ":"} & set(first)) or first == "localhost")
        name = rest if is_host else path
    if not name:
        raise LayoutError(
            f"{entry.digest} does not say where it belongs; name a repository after the folder"
        )
    try:
        return parse_name(name), parse_tag(label) if label else ""
    except RegistryError as error:
        raise LayoutError(f"index.json: {entry.digest}: {error.message}") from None


def _entry(descriptor: Descriptor, annotations: dict[str, str]) -> Entry:
    return Entry(
        media_type=descriptor.media_type,
        digest=str(descriptor.digest),
        size=descriptor.size,
        annotations=annotations,
    )


def _too_deep(reference: Digest | str) -> str:
    return f"{reference}: more than {_DEPTH_MAX} manifests in a row refer to one another"


def _next(answer: Answer) -> str | None:
    """Return where the next page is ("Listing Referrers")."""
    link = answer.headers.get("link")
    if link is None:
        return None
    target, _, relation = link.partition(">")
    if 'rel="next"' not in relation:
        raise ControlError(f"the registry answered with a Link that leads nowhere: {link}")
    return target.removeprefix("<")
