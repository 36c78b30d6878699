"""The page at `/`, in a real browser: it says what this is and how to connect a client, and looks the part."""

from __future__ import annotations

import re
import subprocess
from collections import Counter

from PIL import Image

from tests.e2e.support import BROWSER_TIMEOUT_S, BrowserCase


class FirstPage(BrowserCase):
    """See the module."""

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
