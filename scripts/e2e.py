"""`make e2e`: what people see, in a real headless Chromium (tests/e2e/).

Chromium is taken from the machine; where there is none and we are root on Debian, it is installed with apt-get. Where
neither works the tests are skipped, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from scripts.totals import REPOSITORY

BROWSER_VARIABLE = "CHAOS_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def find() -> str | None:
    """A Chromium that runs. (A package may be a mere pointer to another store.)"""
    given = [os.environ.get(BROWSER_VARIABLE), *map(shutil.which, NAMES), MAC]
    for path in given:
        if path is None or not os.access(path, os.X_OK):
            continue
        probe = subprocess.run([path, "--version"], capture_output=True, check=False, timeout=30)
        if probe.returncode == 0:
            return path
    return None


def install() -> str | None:
    """Install it where we may; the reason when that did not work."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "no Chromium on this machine, and it is not ours to install: `apt-get install chromium`"
    print("installing chromium", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-q", "-q", "-y", "--no-install-recommends"]
    for command in (["apt-get", "-q", "-q", "update"], ["apt-get", "install", *options, "chromium"]):
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            last = (done.stdout.strip().splitlines() or ["no output"])[-1]
            return f"`{' '.join(command)}` failed: {last}"
    return None


def main() -> int:
    browser = find()
    reason = None
    if browser is None:
        reason = install()
        browser = find()
    environment = dict(os.environ)
    environment[BROWSER_VARIABLE] = browser or f"none: {reason or 'the installed Chromium does not run'}"
    command = [sys.executable, "-m", "tests.runner", "--sqlite-only", "--jobs", "1", "e2e"]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
