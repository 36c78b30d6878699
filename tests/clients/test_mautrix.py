"""An application service of mautrix-python against a real server over real sockets, through a `kill -9` of the server and
new processes of the bridge.

The library wants other versions of what we use, so it lives in a virtual environment of its own (`.cache/mautrix`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.clients.support import ProgramCase
from tests.interop import synapse
from tests.interop.environment import ensure_environment
from tests.interop.process import ServerProcess, find_free_port

REQUIREMENTS = ("mautrix==0.21.1", "aiohttp==3.13.2")


class MautrixTests(ProgramCase):
    """One bridge on each database."""

    def test_on_sqlite(self) -> None:
        self.run_bridge("sqlite")

    def test_on_postgresql(self) -> None:
        self.run_bridge("postgresql")

    def run_bridge(self, database: str) -> None:
        python = ensure_environment("mautrix", REQUIREMENTS) / "python"
        self.file = Path(self.mktemp()).absolute()
        self.registrations = build_registrations(find_free_port())
        self.file.write_text(json.dumps(self.registrations))
        self.run_program([str(python), "-m", "tests.clients.mautrix_program", str(self.file)], database)

    def adjust(self, server: ServerProcess, folder: Path) -> None:
        """Register the bridge, and what double puppets act by."""
        names = []
        for name in ("bridge", "puppets"):
            path = folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(self.registrations[name]))
            names.append(str(path))
        config_file = folder / "chaos.yaml"
        config = yaml.safe_load(config_file.read_text())
        config["appservices"] = names
        config_file.write_text(yaml.safe_dump(config))


def build_registrations(port: int) -> dict[str, Any]:
    """As mautrix bridges write them."""
    domain = synapse.SERVER_NAME.replace(".", r"\.")
    return {
        "server_name": synapse.SERVER_NAME,
        "port": port,
        "bridge": {
            "id": "mx",
            "url": f"http://127.0.0.1:{port}",
            "as_token": "as-token-of-the-bridge",
            "hs_token": "hs-token-of-the-bridge",
            "sender_localpart": "mxbot",
            "rate_limited": False,
            "receive_ephemeral": True,
            "de.sorunome.msc2409.push_ephemeral": True,
            "namespaces": {
                "users": [
                    {"regex": f"^@mx_.*:{domain}$", "exclusive": True},
                    {"regex": f"^@mxbot:{domain}$", "exclusive": True},
                ],
                "aliases": [{"regex": f"^#mx_.*:{domain}$", "exclusive": True}],
            },
        },
        "puppets": {
            "id": "doublepuppet",
            "url": None,
            "as_token": "as-token-of-the-puppets",
            "hs_token": "hs-token-of-the-puppets",
            "sender_localpart": "doublepuppet",
            "rate_limited": False,
            "namespaces": {"users": [{"regex": f"@.*:{domain}", "exclusive": False}]},
        },
    }
