"""`make docs`: write the generated pages. `--check` only says which are out of date, with the difference."""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from homeserver.config.docs import reference_markdown
from scripts import openapi, spec_coverage
from scripts.totals import REPOSITORY


def packages_page() -> str:
    """docs/reference/packages.md: every module with the first sentence of its docstring."""
    lines = [
        "# Packages and modules",
        "",
        "<!-- Generated from the docstrings by `make docs`. Do not edit. -->",
        "",
        "Every module with the first sentence of what it says about itself.",
    ]
    for folder in spec_coverage.SOURCES:
        if (REPOSITORY / folder).is_dir():
            lines += _package_lines(REPOSITORY / folder)
    return "\n".join(lines) + "\n"


def _package_lines(folder: Path) -> Iterator[str]:
    modules = sorted(path for path in folder.glob("*.py"))
    if not modules:
        return
    yield from ("", f"## {folder.relative_to(REPOSITORY)}", "")
    for module in modules:
        docstring = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
        paragraph = " ".join(docstring.split("\n\n")[0].split())
        name = "the package" if module.name == "__init__.py" else f"`{module.stem}`"
        if paragraph:
            yield f"- {name}: {paragraph}"
        elif module.name != "__init__.py":
            yield f"- {name}"
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"):
        yield from _package_lines(child)


PAGES: dict[str, Callable[[], str]] = {
    "docs/configuration.md": reference_markdown,
    "docs/reference/openapi.json": lambda: openapi.page(spec_coverage.all_routes()),
    "docs/reference/packages.md": packages_page,
    "docs/spec-coverage.md": spec_coverage.page,
}


def difference(name: str) -> str:
    """What `make docs` would change in a page; empty when it is up to date."""
    path = REPOSITORY / name
    committed = path.read_text("utf-8") if path.exists() else ""
    old, new = committed.splitlines(), PAGES[name]().splitlines()
    return "\n".join(difflib.unified_diff(old, new, name, "regenerated", lineterm="", n=1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    arguments = parser.parse_args()
    stale = [name for name in PAGES if difference(name)]
    for name in stale:
        if arguments.check:
            print(difference(name))
        else:
            (REPOSITORY / name).parent.mkdir(parents=True, exist_ok=True)
            (REPOSITORY / name).write_text(PAGES[name](), "utf-8")
            print(f"wrote {name}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
