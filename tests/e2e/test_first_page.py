"""The page at `/`, in a real browser: it says what this is and how to connect a client, and looks the part."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from PIL import Image
from twisted.trial import unittest

BROWSER_VARIABLE = "CHAOS_CHROMIUM"
START_TIMEOUT_S = 30.0
BROWSER_TIMEOUT_S = 60.0
CONFIGURATION = """\
server_name: page.example
public_url: http://127.0.0.1:{port}
data_dir: ./data
listeners:
  - {{bind: 127.0.0.1, port: {port}, serve: [client, web, health]}}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class FirstPage(unittest.TestCase):
    """`chaos serve` and Chromium, as two real processes."""

    timeout = 120

    def setUp(self) -> None:
        self.browser = os.environ.get(BROWSER_VARIABLE, "none: run it by `make e2e`, which finds Chromium")
        if self.browser.startswith("none:"):
            raise unittest.SkipTest(self.browser.removeprefix("none:").strip())
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-e2e-"))
        self.port = _free_port()
        (self.folder / "chaos.yaml").write_text(CONFIGURATION.format(port=self.port))
        self.server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "homeserver",
                "serve",
                "--dev",
                "--config",
                str(self.folder / "chaos.yaml"),
            ],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(self.stop_server)
        self.wait_until_it_listens()

    def wait_until_it_listens(self) -> None:
        lines: list[str] = []
        listening = threading.Event()

        def read() -> None:
            assert self.server.stdout is not None
            for line in self.server.stdout:
                lines.append(line)
                if line.startswith("listening on"):
                    listening.set()
            listening.set()

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        listening.wait(START_TIMEOUT_S)
        if not any(line.startswith("listening on") for line in lines):
            self.fail("the server did not start:\n" + "".join(lines))

    def stop_server(self) -> None:
        self.server.send_signal(signal.SIGTERM)
        self.assertEqual(self.server.wait(10), 0)
        self.reader.join(10)
        assert self.server.stdout is not None
        self.server.stdout.close()

    def page(self, path: str) -> str:
        """The document as the browser has it when all scripts are done."""
        command = [self.browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={self.folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
        command += [f"http://127.0.0.1:{self.port}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_TIMEOUT_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_says_how_to_connect(self) -> None:
        page = self.page("/")
        self.assertRegex(page, re.compile(r"<title>[^<]*CHAOS", re.IGNORECASE))
        self.assertIn("page.example", page)
        self.assertIn(f"http://127.0.0.1:{self.port}", page)
        self.assertRegex(page, re.compile(r"Matrix client", re.IGNORECASE))
        # Of a development server: whom to log in as.
        self.assertIn("@juniper:page.example", page)

    def test_looks_right_on_a_phone_and_on_a_desk(self) -> None:
        for width in (360, 1280):
            picture = self.folder / f"{width}.png"
            command = [
                self.browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ]
            command += [f"--user-data-dir={self.folder / 'profile'}", f"--window-size={width},900"]
            command += ["--hide-scrollbars", f"--screenshot={picture}", f"http://127.0.0.1:{self.port}/"]
            subprocess.run(command, capture_output=True, check=True, timeout=BROWSER_TIMEOUT_S)
            with Image.open(picture) as image:
                pixels = Counter(image.convert("RGB").getdata())
            # The ground, the card on it, and the violet of the mark: styled, and not black on white.
            shares = {color: count / (width * 900) for color, count in pixels.items()}
            self.assertGreater(shares.get((0xF5, 0xF4, 0xFA), 0), 0.05)
            self.assertGreater(shares.get((0xFF, 0xFF, 0xFF), 0), 0.15)
            self.assertTrue(any(blue > 200 and green < 120 and red > 90 for red, green, blue in shares))
