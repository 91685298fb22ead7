"""What was asked for lately, kept in memory up to a size."""

from collections import OrderedDict
from collections.abc import Hashable


class Recent:
    """Immutable contents by key, the least recently asked for leaving first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._contents: OrderedDict[Hashable, bytes] = OrderedDict()

    def get(self, key: Hashable) -> bytes | None:
        """Return the content of a key, if it is still here."""
        content = self._contents.get(key)
        if content is not None:
            self._contents.move_to_end(key)
        return content

    def put(self, key: Hashable, content: bytes) -> None:
        """Keep a content; one that is larger than everything may be is not kept."""
        if len(content) > self._bytes_max or key in self._contents:
            return
        self._contents[key] = content
        self._bytes += len(content)
        while self._bytes > self._bytes_max:
            _, oldest = self._contents.popitem(last=False)
            self._bytes -= len(oldest)
