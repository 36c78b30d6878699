"""BrowserCase: a development server and a headless Chromium; Browser: Chromium, told what to do through two pipes.

Pages are driven by the protocol of Chromium's developer tools, which needs no other program: a JSON object and a NUL each.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial import unittest

from tests.support.ports import take_port

BROWSER_VARIABLE = "CHAOS_CHROMIUM"
START_TIMEOUT_S = 30.0
BROWSER_TIMEOUT_S = 60.0
CONFIGURATION = """\
server_name: page.example
public_url: http://127.0.0.1:{port}
data_dir: ./data
listeners:
  - {{bind: 127.0.0.1, port: {port}, serve: [client, web, health]}}
registration: {{mode: open}}
"""


class BrowserCase(unittest.TestCase):
    """`chaos serve` and Chromium, as two real processes."""

    timeout = 120

    def setUp(self) -> None:
        self.browser = os.environ.get(BROWSER_VARIABLE, "none: run it by `make e2e`, which finds Chromium")
        if self.browser.startswith("none:"):
            raise unittest.SkipTest(self.browser.removeprefix("none:").strip())
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-e2e-"))
        self.port = take_port()
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


# The browser reads commands from its descriptor 3 and answers on 4.
_WITH_PIPES = """
import fcntl, os, sys
down, up = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(down, 3)
os.dup2(up, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One Chromium with one page; `run` evaluates an expression there, and waits for its promise."""

    def __init__(self, program: str, profile: Path) -> None:
        down, to_browser = os.pipe()
        from_browser, up = os.pipe()
        command = [sys.executable, "-c", _WITH_PIPES, str(down), str(up), program, "--headless=new"]
        command += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        # A machine without a mouse makes a browser without one.
        command += ["--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4"]
        command += ["--remote-debugging-pipe", "--disable-popup-blocking", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(down)
        os.close(up)
        self._to, self._from = to_browser, from_browser
        self._read = b""
        self._number = 0
        self._session = ""
        self._session = self._attach(self._ask("Target.createTarget", url="about:blank")["targetId"])
        self._ask("Page.enable")

    def _attach(self, target: str) -> str:
        session: str = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return session

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(BROWSER_TIMEOUT_S)
        os.close(self._to)
        os.close(self._from)

    def before_pages(self, script: str) -> None:
        """Run a script in every page before its own: what an app puts into its embedded browser."""
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=script)

    def resize(self, width: int, height: int) -> None:
        """Be a phone of this size."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True
        )

    def open(self, url: str) -> None:
        """Go there."""
        self._ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def fill(self, press: str, **fields: str) -> None:
        """Fill the page's form in, press a button, and wait for what comes."""
        for name, value in fields.items():
            self.run(f"document.getElementById({json.dumps(name)}).value = {json.dumps(value)}")
        self._press("button", press)

    def follow(self, words: str) -> None:
        """Press a link, and wait for what comes."""
        self._press("a", words)

    def _press(self, tag: str, words: str) -> None:
        self.run("window.isOld = true")
        found = f"[...document.querySelectorAll({json.dumps(tag)})].find(one => one.innerText.includes({json.dumps(words)}))"
        self.run(f"{found}.click()")
        self.until("!window.isOld && document.readyState === 'complete'")

    def move_and_click(self, selector: str) -> None:
        """Press the mouse in the middle of an element, at once after it has come there."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.run(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        at = {"x": box[0], "y": box[1]}
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", **at)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def until(self, expression: str) -> Any:
        """Wait until an expression is true in whatever page is there by then."""
        end = time.monotonic() + BROWSER_TIMEOUT_S
        while time.monotonic() < end:
            try:
                if value := self.run(expression):
                    return value
            except AssertionError:
                pass  # between two pages
            select.select([], [], [], 0.05)
        raise AssertionError(f"never: {expression}")

    @contextmanager
    def popup(self, path: str) -> Iterator[None]:
        """For as long as a with block lasts, be in the window that the page has opened."""
        opener, self._session = self._session, ""
        end = time.monotonic() + BROWSER_TIMEOUT_S
        found: list[str] = []
        while not found and time.monotonic() < end:
            targets = self._ask("Target.getTargets")["targetInfos"]
            found = [one["targetId"] for one in targets if one["type"] == "page" and path in one["url"]]
        self._session = self._attach(found[0])
        yield
        self._session = opener

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                if "error" in message:
                    raise AssertionError(message["error"])
                answer: dict[str, Any] = message["result"]
                return answer

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            if not select.select([self._from], [], [], BROWSER_TIMEOUT_S)[0]:
                raise AssertionError("the browser says nothing")
            piece = os.read(self._from, 65_536)
            if not piece:
                raise AssertionError("the browser is gone")
            self._read += piece
        line, self._read = self._read.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message
