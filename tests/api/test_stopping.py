"""What happens while a server stops.

Who follows the log hears of commits until the end, and begins nothing any more; and it can be said what is waited for.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from homeserver.config.schema import Registration
from homeserver.store.changes import Change, Kind
from homeserver.store.foreign import load_foreign
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"


@on_each_database
class Stopping(DatabaseCase):
    def test_whoever_hears_of_a_commit_does_not_raise(self) -> None:
        registration = Registration(mode="open", guests=True)
        app = TestApp(self, database=self.new_database(), config=test_config(registration=registration))
        alice = app.register("alice")
        guest = app.ok("POST", f"{V3}/register", {}, query={"kind": "guest"})["access_token"]
        state = [{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
        body = {"preset": "public_chat", "initial_state": state}
        room_id = app.ok("POST", f"{V3}/createRoom", body, alice)["room_id"]
        app.ok("POST", f"{V3}/join/{room_id}", {}, guest)
        core, tasks = app.app.core, (app.app.services.tasks, app.app.peering.tasks)
        room_nid = core.interner.known_room(room_id)
        assert room_nid is not None
        for group in tasks:
            app.wait(group.stop())
        # All that has happened happens once more.
        for change in app.wait(app.database.read(load_foreign, 0, core.changes.position)):
            app.wait(core.committer.drained())
            core.changes.publish([change._replace(pos=core.changes.position + 1)])
        core.changes.publish([Change(core.changes.position + 1, Kind.STATE_MOVED, room_nid, 0)])
        app.advance(5)


class Waiting(TestCase):
    def setUp(self) -> None:
        self.app = TestApp(self)

    def test_a_task_that_has_a_last_word(self) -> None:
        gate: Deferred[None] = Deferred()

        async def stay() -> None:
            try:
                await Deferred()
            except CancelledError:
                await gate

        self.app.app.services.tasks.spawn("a last word", stay())
        stopping = Deferred.fromCoroutine(self.app.app.stop())
        self.app.advance(0)
        self.assertEqual("tasks: a last word", self.app.app.ending)
        gate.callback(None)
        self.app.wait(stopping)
        self.assertEqual("the database", self.app.app.ending)
