"""A conversation that is encrypted from end to end, between a client on each side: matrix-nio, with its real crypto."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.interop.environment import ensure_environment
from tests.interop.stories.base import Story

# The version that the other tests with nio use; `e2e` brings its crypto.
REQUIREMENTS = ("matrix-nio[e2e]==0.26.0",)
PROGRAM = Path(__file__).resolve().parents[1] / "encrypted_program.py"
LIMIT_S = 150


class Encrypted(Story):
    """See the module."""

    def test_a_conversation(self) -> None:
        """Device keys, one-time keys and room keys cross from server to server, and every message is read."""
        people = []
        for client in (self.alice, self.bob):
            name = client.user_id[1:].partition(":")[0]
            people += [client.process.base_url, client.user_id, f"the password of {name}"]
        python = ensure_environment("nio", REQUIREMENTS) / "python"
        done = subprocess.run(
            [str(python), str(PROGRAM), self.mktemp(), *people],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
