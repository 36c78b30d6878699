"""`make lock`: resolve requirements/*.txt anew from pyproject.toml, with hashes, by pip-tools.

pip-tools lives in an environment of its own, so that it is no dependency. The files name no index: they hold for
whichever one the machine is configured to use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv

from scripts.totals import REPOSITORY

TOOLS = REPOSITORY / ".cache" / "lock-tools"
OPTIONS = [
    "--quiet",
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-header",
    "--upgrade",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
]


def main() -> int:
    if not (TOOLS / "bin" / "pip-compile").exists():
        venv.create(TOOLS, with_pip=True)
        subprocess.run([TOOLS / "bin" / "pip", "install", "--quiet", "pip-tools"], check=True)
    # Files that lie about on this machine alone must not decide the lock.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    for name, extra in (("runtime", list[str]()), ("test", ["--extra", "test"])):
        output = f"requirements/{name}.txt"
        command = [
            str(TOOLS / "bin" / "pip-compile"),
            *OPTIONS,
            *extra,
            "--output-file",
            output,
            "pyproject.toml",
        ]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
        print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
