"""GET /_chaos/limits: how much one account may have, for whoever has reached a limit. spec: docs/reference/web.md#limits"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from homeserver.api.web.frame import framed_page
from homeserver.config.schema import Config
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.push.rulesets import MAX_RULES
from homeserver.store.account_data import MAX_LENGTH_PER_USER, MAX_ROWS_PER_USER
from homeserver.store.devices import MAX_DEVICES_PER_USER
from homeserver.store.key_backups import MAX_BYTES_PER_USER
from homeserver.store.pushers import MAX_PER_USER as MAX_PUSHERS
from homeserver.store.thread_subscriptions import MOST_PER_USER as MAX_SUBSCRIPTIONS
from homeserver.store.threepids import MAX_PER_USER as MAX_ADDRESSES

PATH: Final = "/_chaos/limits"
_FIXED: Final = (
    ("Devices", f"{MAX_DEVICES_PER_USER:,}"),
    ("E-mail addresses", f"{MAX_ADDRESSES:,}"),
    ("Devices and addresses that are notified", f"{MAX_PUSHERS:,}"),
    ("Rules for notifications", f"{MAX_RULES:,}"),
    ("Threads that are followed", f"{MAX_SUBSCRIPTIONS:,}"),
    ("Settings that apps keep here", f"{MAX_ROWS_PER_USER:,}"),
    ("Their length", f"{MAX_LENGTH_PER_USER:,} characters"),
    ("Backups of keys", f"{MAX_BYTES_PER_USER:,} bytes"),
)


class LimitsApi:
    """`config` is asked each time, as quotas may change while the server runs."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=PATH,
                handler=self.page,
                auth=Auth.NONE,
                limit="read",
                spec="docs/reference/web.md#limits",
            )
        ]

    async def page(self, _: Request) -> Response:
        config = self._config()
        files, size = config.media.user_quota_files, config.media.user_quota_bytes
        uploads = (
            ("Files that were uploaded", "no limit" if files is None else f"{files:,}"),
            ("Their size", "no limit" if size is None else f"{size:,} bytes"),
        )
        rows = "".join(
            f'<tr><th scope="row">{what}</th><td>{most}</td></tr>' for what, most in (*uploads, *_FIXED)
        )
        text = (
            "<p>So much may one account have on this server. To make room, remove what you no longer need: old devices, "
            "for example. The people who run the server can tell you whether you may upload more.</p>"
            f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
        )
        return framed_page(200, "Limits of an account", text, server_name=config.server_name)
