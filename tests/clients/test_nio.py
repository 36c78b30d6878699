"""matrix-nio against a real server over real sockets, through a `kill -9`."""

from __future__ import annotations

from tests.clients.support import ProgramCase, python_program


class NioTests(ProgramCase):
    """One conversation on each database."""

    def test_on_sqlite(self) -> None:
        self.run_program(python_program("tests.clients.nio_program"), "sqlite")

    def test_on_postgresql(self) -> None:
        self.run_program(python_program("tests.clients.nio_program"), "postgresql")


class NioSecretTests(ProgramCase):
    """An encrypted conversation, with a second device that is given the keys of the first."""

    def test_on_sqlite(self) -> None:
        self.run_once(python_program("tests.clients.nio_secrets"), "sqlite")

    def test_on_postgresql(self) -> None:
        self.run_once(python_program("tests.clients.nio_secrets"), "postgresql")
