"""Every scene of this folder, on both databases; `SCENE=name` in the environment plays one alone."""

from __future__ import annotations

import os
from pathlib import Path

from tests.scenes.stage import SceneError, Stage
from tests.support.app import TestApp
from tests.support.databases import SQLITE, DatabaseCase, on_each_database

FOLDER = Path(__file__).parent


def scenes() -> list[Path]:
    """The files, or the one that is asked for."""
    wanted = os.environ.get("SCENE", "*")
    found = sorted(FOLDER.glob(f"{wanted}.scene"))
    if not found:
        raise FileNotFoundError(f"there is no scene {wanted}")
    return found


@on_each_database
class Scenes(DatabaseCase):
    """Stories that come true."""

    def _play(self, text: str) -> None:
        Stage(TestApp(self, "sqlite::memory:" if self.dialect == SQLITE else self.new_database())).play(text)

    def test_all(self) -> None:
        for path in scenes():
            with self.subTest(scene=path.stem):
                try:
                    self._play(path.read_text())
                except SceneError as error:
                    raise SceneError(f"{path.stem}.scene: {error}") from error

    def test_a_story_that_is_not_true_fails(self) -> None:
        for line in ("bob sees 'hi' from alice in den", "bob cannot join den", "alice dances in den"):
            with self.assertRaises(SceneError):
                self._play(f"here are alice and bob\nalice creates public room den\n{line}")
