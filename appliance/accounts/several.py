"""Accounts of a password file and of a directory, the file first.

Whoever stands in the file is decided by the file alone, so that the operator comes in while the
directory is away, and whatever it holds; in a line that is ignored as well, as that is how accounts
are locked. While the file cannot be read nobody comes in, as nobody knows whom it locks out.
"""

from appliance.accounts.directory import Directory
from appliance.accounts.htpasswd import PasswordAccounts
from appliance.protocol.credentials import Credentials


class SeveralAccounts:
    """The accounts of a file, and those of a directory that are not in it."""

    def __init__(self, file: PasswordAccounts, directory: Directory) -> None:
        self._file = file
        self._directory = directory

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        await self._file.refresh()

    async def recall(self, credentials: Credentials) -> str | None:
        """Return what `verify` does for a password that was right a moment ago, at little cost."""
        return await (await self._keeper(credentials.account)).recall(credentials)

    def is_wrong(self, credentials: Credentials) -> bool:
        """Tell whether this password was found wrong a moment ago, as clients try one again."""
        keeper = self._file if self._file.decides(credentials.account) else self._directory
        return keeper.is_wrong(credentials)

    async def verify(self, credentials: Credentials) -> str | None:
        """Return the generation that a password proves; None if it is not the account's."""
        return await (await self._keeper(credentials.account)).verify(credentials)

    async def generation(self, account: str) -> str | None:
        """Return what changes with an account's password; None if there is no such account."""
        return await (await self._keeper(account)).generation(account)

    def knows(self, account: str) -> bool:
        """Tell whether there is such an account, as far as is known without asking for it."""
        return self._file.knows(account) or self._directory.knows(account)

    def weakness(self, account: str) -> str | None:
        """Say in a sentence what is weak about how an account proves itself; None if nothing is."""
        return self._file.weakness(account) or self._directory.weakness(account)

    async def _keeper(self, account: str) -> PasswordAccounts | Directory:
        await self._file.refresh()
        return self._file if self._file.decides(account) else self._directory
