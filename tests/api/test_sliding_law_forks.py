"""The law for sliding sync where other servers make forks: state and memberships move by resolution, back and forth."""

from __future__ import annotations

from typing import Any

from tests.api.test_sliding_law import SLIDING, sliding_body
from tests.api.test_sync_law_forks import ROOM, SEEDS, STEPS, ForkedStory
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.sliding_model import SlidingView, differences
from tests.support.sync import user_id

# Who asks for less state for a while is not told what went away meanwhile: when they ask for more again, the proposal has
# them told what matches and is there. The first two ask for the same all the time, the second one for little.
_SAME = ("sync", "sync", "narrow", "none")
_KINDS = {"everything": _SAME, "some": _SAME, "lazy": ("sync", "narrow", "none", "subscribe")}
# One in which a name goes away again: among few keys that is rare.
_GONE_AGAIN = 13


class _SlidingStory(ForkedStory):
    """The same, with clients that look through windows."""

    def begin(self, variant: str) -> None:
        self.variant = variant
        self.sliding = {name: SlidingView(user_id(name)) for name in self.tokens}

    def ask(self, name: str, kind: str) -> Any:
        view = self.sliding[name]
        body = sliding_body(self.variant, kind, ROOM, view.to_device)
        query = {} if view.pos is None else {"pos": view.pos}
        return self.app.ok("POST", SLIDING, body, self.tokens[name], query)

    def sync(self, name: str) -> None:
        self.sliding[name].apply(self.ask(name, self.random.choice(_KINDS[self.variant])))

    def differences(self) -> list[str]:
        found: list[str] = []
        for name, view in self.sliding.items():
            view.apply(self.ask(name, "sync"))
            fresh = SlidingView(view.user_id)
            body = sliding_body(self.variant, "sync", ROOM, None)
            fresh.apply(self.app.ok("POST", SLIDING, body, self.log_in(name)))
            quiet = self.ask(name, "sync")
            if quiet["rooms"]:
                found.append(f"{name} after everything: {quiet['rooms']}")
            exact = _KINDS[self.variant] is _SAME
            found += [f"{name}: {one}" for one in differences(view, fresh, lazy=self.lazy, exact=exact)]
        return found


@on_each_database
class ForkedSlidingLaw(DatabaseCase):
    """Each seed is a story of its own."""

    def _hold(self, variant: str, *further: int) -> None:
        for seed in [*(SEEDS if self.dialect == SQLITE else SEEDS[:1]), *further]:
            story = _SlidingStory(self, variant, seed)
            for number in range(STEPS):
                story.step()
                if number % 10 == 9:
                    self.assertEqual([], story.differences(), f"{variant} {seed} {number}")

    def test_everything(self) -> None:
        self._hold("everything")

    def test_what_little_is_asked_for(self) -> None:
        self._hold("some", _GONE_AGAIN)

    def test_lazy_members(self) -> None:
        self._hold("lazy")
