"""AdminCase: a server with the admin API, and somebody who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.config.schema import Registration
from synapse_compat.extension import EXTENSION
from tests.api.talk import TalkCase, user
from tests.support.app import TestApp, test_config
from tests.support.databases import SQLITE
from tests.support.http import Query

ADMIN = "/_synapse/admin"


class AdminCase(TalkCase):
    """``root`` is an administrator; alice and bob are not."""

    def setUp(self) -> None:
        super().setUp()
        self.add("root")
        self.make_admin("root")

    def make_app(self) -> TestApp:
        """With the endpoints of the extension, and open to guests."""
        url = "sqlite::memory:" if self.dialect == SQLITE else self.new_database()
        registration = Registration(mode="open", guests=True)
        config = test_config(registration=registration, data_dir=Path(self.mktemp()))
        return TestApp(self, url, config=config, extra_routes=[EXTENSION.routes])

    def make_admin(self, name: str) -> None:
        """Make somebody an administrator."""
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.set_admin(user(name), True)))

    def ask(
        self, method: str, path: str, body: Any = None, query: Query | None = None, who: str = "root"
    ) -> tuple[int, Any]:
        """What the admin API answers somebody."""
        return self.app.call(method, ADMIN + path, body, self.tokens[who], query)

    def does(self, method: str, path: str, body: Any = None, query: Query | None = None) -> Any:
        """What it answers the administrator, who is not refused."""
        status, json = self.ask(method, path, body, query)
        self.assertEqual(200, status, json)
        return json

    def refuses(
        self, status: int, errcode: str, method: str, path: str, body: Any = None, query: Query | None = None
    ) -> None:
        """It refuses the administrator."""
        self.assert_refused(self.ask(method, path, body, query), status, errcode)
