"""matrix-js-sdk (which Element is made of) against a real server over real sockets, through a `kill -9`."""

from __future__ import annotations

from pathlib import Path

from tests.clients.node import find_node, install_packages
from tests.clients.support import ProgramCase

PROGRAM_FOLDER = Path(__file__).resolve().parent / "js"


def find_program(name: str = "program.mjs") -> list[str]:
    """The command that runs the program, its packages installed; skips the test where there is no Node."""
    node = find_node(PROGRAM_FOLDER)
    install_packages(PROGRAM_FOLDER)
    return [node, str(PROGRAM_FOLDER / name)]


class JsSdkTests(ProgramCase):
    """One conversation on each database."""

    def test_on_sqlite(self) -> None:
        self.run_program(find_program(), "sqlite")

    def test_on_postgresql(self) -> None:
        self.run_program(find_program(), "postgresql")


class JsSdkSecretTests(ProgramCase):
    """An encrypted conversation, with the SDK's own cryptography."""

    def test_on_sqlite(self) -> None:
        self.run_once(find_program("secrets.mjs"), "sqlite")

    def test_on_postgresql(self) -> None:
        self.run_once(find_program("secrets.mjs"), "postgresql")


class JsSdkStoryTests(ProgramCase):
    """The stories in `js/stories`, each with people of its own."""

    def tell(self, story: str, database: str) -> None:
        self.run_once([*find_program("stories.mjs"), story], database)

    def test_key_backup_on_sqlite(self) -> None:
        self.tell("key_backup", "sqlite")

    def test_key_backup_on_postgresql(self) -> None:
        self.tell("key_backup", "postgresql")

    def test_own_devices_on_sqlite(self) -> None:
        self.tell("own_devices", "sqlite")

    def test_own_devices_on_postgresql(self) -> None:
        self.tell("own_devices", "postgresql")

    def test_threads_on_sqlite(self) -> None:
        self.tell("threads", "sqlite")

    def test_threads_on_postgresql(self) -> None:
        self.tell("threads", "postgresql")

    def test_spaces_on_sqlite(self) -> None:
        self.tell("spaces", "sqlite")

    def test_spaces_on_postgresql(self) -> None:
        self.tell("spaces", "postgresql")

    def test_sliding_on_sqlite(self) -> None:
        self.tell("sliding", "sqlite")

    def test_sliding_on_postgresql(self) -> None:
        self.tell("sliding", "postgresql")

    def test_search_on_sqlite(self) -> None:
        self.tell("search", "sqlite")

    def test_search_on_postgresql(self) -> None:
        self.tell("search", "postgresql")

    def test_oauth_on_sqlite(self) -> None:
        self.tell("oauth", "sqlite")

    def test_oauth_on_postgresql(self) -> None:
        self.tell("oauth", "postgresql")

    # The SDK looks once a second for what the other device says; the server keeps it in memory on either database.
    def test_qr_code_on_sqlite(self) -> None:
        self.tell("qr_code", "sqlite")
