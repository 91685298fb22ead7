"""Bodies as clients send them."""

from appliance import work
from appliance.registry.ports import Sink


class Sent:
    """A body at hand."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def drain(self, sink: Sink) -> None:
        await work.receiving(sink, [self._content])
