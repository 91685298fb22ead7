"""A client that does what comes into its head, and knows what each answer must be."""

from collections.abc import Callable

from tests.soak.asker import Gone
from tests.soak.blobs import Blobs
from tests.soak.manifests import Manifests
from tests.system.wire import Client

_MANY_BLOBS = 16  # in one repository: from then on, taking things out is what comes to mind
_UPLOADS_MAX = 4


class Actor(Blobs, Manifests):
    """One client, from one end of the daemon to the next."""

    def work(self, client: Client, number: int, ending: Callable[[], bool]) -> None:
        """Make requests until the daemon is ended, which `ending` tells."""
        line = self.begin(client, number, ending)
        try:
            while True:
                self.act()
        except Gone:
            return
        finally:
            line.close()

    def act(self) -> None:
        """Do something, in one request or a few."""
        self._choose()()

    def _choose(self) -> Callable[[], None]:
        full = any(len(self.ledger.names(name, "blob")) > _MANY_BLOBS for name in self.repositories)
        deeds: list[tuple[Callable[[], None], int]] = [
            (self._push_some_blob, 8),
            (self._push_common_blob, 3),
            (self._mount, 4),
            (self._push_image, 9),
            (self._push_index, 5),
            (self._move_tag, 7),
            (self._push_with_tags, 5),
            (self._begin_upload, 3 if len(self.ledger.uploads) < _UPLOADS_MAX else 0),
            (self._go_on_with_upload, 8 if self.ledger.uploads else 0),
            (self._cancel_upload, 1 if self.ledger.uploads else 0),
            (self._delete_tag, 3),
            (self._delete_manifest, 9 if full else 2),
            (self._delete_blob, 12 if full else 3),
            (self._delete_repository, 4 if full else 1),
        ]
        [deed] = self._random.choices(*zip(*deeds, strict=True))
        chosen: Callable[[], None] = deed
        return chosen
