"""What the keys of `/etc/registry.toml` may be: types, each with the words for whoever gets one wrong."""

from typing import Annotated

from msgspec import Meta

from appliance.values import Address, Duration, Network, Size

Text = Annotated[str, Meta(pattern=r"\A[^\0]*\Z", description='text in quotes, as in "one"')]
Texts = Annotated[tuple[str, ...], Meta(description='a list of texts, as in ["one", "two"]')]
Addresses = Annotated[
    tuple[Address, ...],
    Meta(description='a list of addresses, as in ["[::]:443"] or ["10.0.0.1:443"]'),
]
Networks = Annotated[
    tuple[Network, ...],
    Meta(
        description="a list of addresses, and of networks by their first one, as in "
        '["10.0.0.5", "10.1.0.0/16"]'
    ),
]
Span = Annotated[Duration, Meta(description='a duration with its unit, as in "90s" or "24h"')]
SizeShape = Annotated[
    Size, Meta(description='a size with its unit, as in "512KiB" or "20MiB", or "0" for no limit')
]
Reserve = Annotated[
    Size | None,
    Meta(description='a size with its unit, as in "512MiB" or "20GiB", or "0" for none'),
]
Count = Annotated[
    int, Meta(ge=0, le=1_000_000, description="a whole number, 0 (no limit) to 1000000")
]
Switch = Annotated[bool, Meta(description="true or false")]
Url = Annotated[
    str,
    Meta(
        pattern=r"\A(https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?)?\Z",
        description='an address without a path, as in "https://registry.example.com"',
    ),
]
