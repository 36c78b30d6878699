"""A bot and an application service of matrix-bot-sdk against a real server over real sockets."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.clients.node import find_node, install_packages
from tests.clients.support import ProgramCase
from tests.clients.test_mautrix import build_registrations
from tests.interop.process import ServerProcess
from tests.support.ports import take_port

PROGRAM_FOLDER = Path(__file__).resolve().parent / "bot_sdk"


class BotSdkTests(ProgramCase):
    """One story on each database."""

    def test_on_sqlite(self) -> None:
        self.run_bot("sqlite")

    def test_on_postgresql(self) -> None:
        self.run_bot("postgresql")

    def run_bot(self, database: str) -> None:
        node = find_node(PROGRAM_FOLDER)
        install_packages(PROGRAM_FOLDER)
        self.file = Path(self.mktemp()).absolute()
        self.registrations = build_registrations(take_port())
        # The SDK makes names of its users by the one namespace that it has.
        self.registrations["bridge"]["namespaces"]["users"] = [{"regex": "@mx_.*", "exclusive": True}]
        self.file.write_text(json.dumps(self.registrations))
        self.run_once([node, str(PROGRAM_FOLDER / "program.mjs"), str(self.file)], database)

    def adjust(self, server: ServerProcess, folder: Path) -> None:
        """Register the application service."""
        path = folder / "bridge.yaml"
        path.write_text(yaml.safe_dump(self.registrations["bridge"]))
        config_file = folder / "chaos.yaml"
        config = yaml.safe_load(config_file.read_text())
        config["appservices"] = [str(path)]
        config_file.write_text(yaml.safe_dump(config))
