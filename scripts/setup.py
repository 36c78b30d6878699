"""`make setup`: everything the project needs, into .venv. Quick when nothing changed.

Runs on the system's Python with nothing installed, so it imports the standard library only, and its syntax is old
enough for any Python 3 to read it and say that it is too old.

1. Find a Python that fits (3.11 to 3.13) and can make virtual environments; as root on Debian, install what is missing.
2. Install exactly what requirements/test.txt says, by hash.
3. Install the project itself, editable, so that .venv/bin/chaos is the command.
4. Compile it, as pip does with what it installs: the first start takes no longer than the next, and neither does any where
   Python is told to write no bytecode (PYTHONDONTWRITEBYTECODE, as in many containers).
5. Write a stamp with the hash of all inputs; the next run compares that and is done.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "chaos-setup-stamp"
LOCK = REPOSITORY / "requirements" / "test.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
PACKAGES = ("federation", "homeserver", "synapse-compat/synapse_compat")
CANDIDATES = ["python3", "python3.13", "python3.12", "python3.11"]
PROBE = "import sys; print(*sys.version_info[:2]); import ensurepip, venv"


class SetupError(Exception):
    """Says in one line what the developer has to do."""


def stamp() -> str:
    """A hash of everything that decides what .venv holds."""
    digest = hashlib.sha256()
    for path in (LOCK, REPOSITORY / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    # The editable install maps the packages that it found; a new one has to be mapped too.
    for package in PACKAGES:
        digest.update(b"%d" % (REPOSITORY / package).is_dir())
    # A clone that was moved carries a .venv whose scripts name the old place.
    digest.update(str(ENVIRONMENT).encode())
    return digest.hexdigest()


def run(*command: str) -> None:
    # setuptools warns at length of what an editable install is, which is just what we want.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=str(REPOSITORY), env=environment, check=False)
    if done.returncode != 0:
        raise SetupError("`{}` failed with status {}".format(" ".join(command), done.returncode))


def find_python() -> str:
    """A Python of a version that fits and that can make virtual environments, installed first where we may."""
    incomplete = None
    # First the one that runs this (`make PYTHON=…`), unless it is a virtual environment's.
    own = sys.executable if sys.prefix == sys.base_prefix else ""
    for name in [own, *CANDIDATES]:
        path = shutil.which(name)
        if path is None:
            continue
        probe = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, check=False)
        version = tuple(int(part) for part in probe.stdout.split()[:2])
        if not OLDEST <= version <= NEWEST:
            continue
        if probe.returncode == 0:
            return path
        incomplete = incomplete or (path, "python{}.{}-venv".format(*version))
    if incomplete is None:
        raise SetupError("no Python 3.11, 3.12 or 3.13 on PATH (as python3 or python3.N): please install one")
    path, package = incomplete
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"{path} cannot make virtual environments: run `apt-get install {package}`")
    print(f"installing {package}, which {path} lacks", flush=True)
    run("apt-get", "update", "-q")
    run(
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        package,
    )
    return path


def make_environment() -> None:
    if PYTHON.exists():
        works = subprocess.run([str(PYTHON), "-m", "pip", "--version"], capture_output=True, check=False)
        if works.returncode == 0:
            return
        print("the old .venv does not work any more: making a new one", flush=True)
        shutil.rmtree(str(ENVIRONMENT))
    run(find_python(), "-m", "venv", str(ENVIRONMENT))


def install() -> None:
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    print("installing the packages of requirements/test.txt", flush=True)
    run(*pip, "--require-hashes", "--requirement", str(LOCK))
    # setuptools is among the packages just installed, so no second, unlocked one is fetched to build with.
    run(*pip, "--no-build-isolation", "--editable", str(REPOSITORY))
    compile_packages(str(PYTHON))


def compile_packages(python: str) -> None:
    """Write the bytecode of our own packages. A package that is not there is no failure, nor is a folder of another user."""
    command = [python, "-m", "compileall", "-q", "-q", *PACKAGES]
    subprocess.run(command, cwd=str(REPOSITORY), check=False)


def main() -> int:
    wanted = stamp()
    if STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists():
        return 0
    try:
        make_environment()
        install()
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    STAMP.write_text(wanted)
    print("set-up is complete: {}".format(ENVIRONMENT / "bin" / "chaos"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
