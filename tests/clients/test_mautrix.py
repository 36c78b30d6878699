"""An application service of mautrix-python against a real server over real sockets, through a `kill -9` of the server and
new processes of the bridge.

The library wants other versions of what we use, so it lives in a virtual environment of its own (`.cache/mautrix`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from twisted.trial import unittest

from tests.clients.support import ProgramCase
from tests.interop import synapse
from tests.interop.environment import ensure_environment
from tests.interop.process import ServerProcess
from tests.support.ports import take_port

REQUIREMENTS = ("mautrix==0.21.1", "aiohttp==3.13.2")
# What mautrix encrypts with, where it keeps that, and the client of the person at the other end.
SECRET_REQUIREMENTS = (
    *REQUIREMENTS,
    "python-olm==3.2.16",
    "pycryptodome==4.4.0",
    "unpaddedbase64==2.1.0",
    "base58==2.1.1",
    "asyncpg==0.32.0",
    "aiosqlite==0.22.1",
    "ruamel.yaml==0.19.1",
    "commonmark==0.9.1",
    "matrix-nio[e2e]==0.26.0",
    "atomicwrites==1.4.0",
)
# LIMIT(python-olm has no wheel for later ones)
OLM_BELOW = (3, 13)


class BridgeCase(ProgramCase):
    """A bridge, and the server that knows of it."""

    def run_bridge(self, python: Path, program: str, database: str, *, bursts: bool = True) -> None:
        file = Path(self.mktemp()).absolute()
        self.registrations = build_registrations(take_port())
        file.write_text(json.dumps(self.registrations))
        self.run_program([str(python), "-m", program, str(file)], database, bursts=bursts)

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


class MautrixTests(BridgeCase):
    """One bridge on each database."""

    def test_on_sqlite(self) -> None:
        self.talk("sqlite")

    def test_on_postgresql(self) -> None:
        self.talk("postgresql")

    def talk(self, database: str) -> None:
        python = ensure_environment("mautrix", REQUIREMENTS) / "python"
        self.run_bridge(python, "tests.clients.mautrix_program", database)


class MautrixSecretTests(BridgeCase):
    """One that encrypts, with a person who does."""

    def test_on_sqlite(self) -> None:
        self.talk("sqlite")

    def test_on_postgresql(self) -> None:
        self.talk("postgresql")

    def talk(self, database: str) -> None:
        if sys.version_info[:2] >= OLM_BELOW:
            raise unittest.SkipTest("python-olm, with which mautrix encrypts, has no wheel for this Python")
        python = ensure_environment("mautrix-secrets", SECRET_REQUIREMENTS) / "python"
        self.run_bridge(python, "tests.clients.mautrix_secrets", database, bursts=False)


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
            "org.matrix.msc3202": True,
            "io.element.msc4190": True,
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
