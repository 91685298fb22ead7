"""A client that pulls whole images, again and again."""

import time

from tests.soak.gc_asker import ACCEPT, Asker
from tests.soak.gc_board import Document, Entry
from tests.system.wire import Answer, digest_of

_STATUSES = range(200, 500)
_REST_SECONDS = 0.05  # so that those who push have their turn


class Overtaken(Exception):  # noqa: N818 - not an error: somebody has ended the image meanwhile
    """The image is held no more."""


class Puller(Asker):
    """Pulls what is held; whatever is missing then is a violation."""

    def act(self) -> None:
        """Pull an image, sometimes slowly."""
        time.sleep(_REST_SECONDS)
        entry = self._scene.board.choose(self._random)
        if entry is None:
            return
        slowly = self._random.random() < 0.1
        try:
            self.pull(entry, pause=self._random.uniform(0.2, 1.5) if slowly else 0)
        except Overtaken:
            self._notice("images ended while being pulled")

    def pull(self, entry: Entry, *, pause: float = 0) -> None:
        """Read all of an image and compare it; raises Violation, or Overtaken."""
        image = entry.image
        top = self._get(entry, "manifest by tag", f"manifests/{entry.tag}")
        self._compare(entry, image.top, top)
        self._scene.stopping.wait(pause)
        for child in image.children:
            self._manifest(entry, child)
        if image.referrers:
            listed = self._get(entry, "referrers", f"referrers/{image.top.digest}")
            found = {one["digest"] for one in listed.json()["manifests"]}
            for referrer in image.referrers:
                if referrer.digest not in found:
                    text = f"{referrer.digest} is not among its referrers"
                    raise self._fault(entry, text, referrer.digest)
                self._manifest(entry, referrer)
        for blob in sorted(image.blobs):
            answer = self._get(entry, "blob", f"blobs/{blob}")
            if digest_of(answer.body) != blob:
                raise self._fault(entry, f"{blob} has other bytes", blob)
        self._notice("images pulled whole")

    def _manifest(self, entry: Entry, document: Document) -> None:
        answer = self._get(entry, "manifest by digest", f"manifests/{document.digest}")
        self._compare(entry, document, answer)

    def _get(self, entry: Entry, kind: str, path: str) -> Answer:
        target = f"/v2/{entry.repository}/{path}"
        answer = self._ask(f"GET {kind}", "GET", target, headers=ACCEPT, permitted=_STATUSES)
        if answer.status != 200:
            text = f"GET {target}: {answer.status} {answer.body[:300]!r}"
            raise self._fault(entry, text, path.rpartition("/")[2])
        return answer

    def _compare(self, entry: Entry, document: Document, answer: Answer) -> None:
        if answer.body != document.content:
            text = f"{answer.body[:300]!r} instead of {document.digest}"
            raise self._fault(entry, text, document.digest)

    def _fault(self, entry: Entry, sentence: str, about: str) -> Exception:
        if not entry.held:
            return Overtaken()
        where = f"{entry.repository}:{entry.tag}"
        return self._violation(
            f"{where}, all of which must be there: {sentence}", about, entry.image.top.digest
        )
