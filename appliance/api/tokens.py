"""Where clients get tokens: "Docker Registry v2 authentication via central service", and OAuth2.

`GET` takes a password in its `Authorization` header, or none at all for what needs no account;
`POST` takes a password or an identity token in a form ("Docker Registry v2 OAuth2 authentication").
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from appliance.api.exchange import Exchange
from appliance.oci.errors import REQUEST_INVALID
from appliance.protocol.scopes import parse_scopes
from appliance.registry.access import SOMEBODY, Access, Account, Grant
from appliance.registry.tokens import Tokens

_FORM_MAX = 64 << 10
_FIELDS_MAX = 200
_UNCACHED = (("Cache-Control", "no-store"),)


class TokenResource:
    """`/auth/token`."""

    def __init__(self, access: Access, tokens: Tokens) -> None:
        self._access = access
        self._tokens = tokens

    async def get(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 200 with a token for what of the scopes the account may do."""
        account = await self._access.authenticate(exchange.claim, by_token=False)
        exchange.account = account
        offline = exchange.query.get("offline_token") == "true"
        await self._give(exchange, account, exchange.parameters("scope"), offline=offline)

    async def post(self, exchange: Exchange, grant: Grant) -> None:
        """Answer likewise, to a form."""
        form = await _form(exchange)
        exchange.account = SOMEBODY
        match form.get("grant_type"):
            case "password":
                account = await self._access.login(
                    form.get("username", ""), form.get("password", ""), exchange.claim
                )
                offline = form.get("access_type") == "offline"
            case "refresh_token":
                found = await self._access.bearer(form.get("refresh_token", "").encode(), "refresh")
                if found is None:
                    raise self._access.unauthorized(
                        exchange.claim,
                        "the identity token is not valid, or not any more: log in again",
                        error="invalid_token",
                    )
                account, offline = found, False
            case _:
                raise REQUEST_INVALID.error("grant_type is password or refresh_token")
        exchange.account = account
        kept = form.get("refresh_token", "")
        await self._give(exchange, account, [form.get("scope", "")], offline=offline, kept=kept)

    async def _give(
        self,
        exchange: Exchange,
        account: Account,
        scopes: Sequence[str],
        *,
        offline: bool,
        kept: str = "",
    ) -> None:
        bearing = self._access.bearing(account)
        token, claims = self._tokens.access(bearing, parse_scopes(scopes))
        document: dict[str, object] = {
            "token": token,
            "access_token": token,
            "expires_in": claims.expires_at - claims.issued_at,
            "issued_at": datetime.fromtimestamp(claims.issued_at, UTC).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
            "scope": " ".join(map(str, claims.scopes)),
        }
        if kept:
            document["refresh_token"] = kept
        elif offline and self._access.may_stay(account):
            document["refresh_token"] = self._tokens.refresh(bearing)
        if account.weakness:
            exchange.warn(account.weakness)
        await exchange.answer_json(200, document, _UNCACHED)


async def _form(exchange: Exchange) -> dict[str, str]:
    content = await exchange.read(_FORM_MAX, REQUEST_INVALID)
    try:
        pairs = parse_qsl(
            content.decode(), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX
        )
    except ValueError:
        raise REQUEST_INVALID.error("the form is malformed") from None
    return dict(reversed(pairs))
