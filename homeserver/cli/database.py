"""`chaos migrate`, `check-db`, `seed`, `backup`, `restore`: long work on the database, with progress."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.cli.host import config_options, operate
from homeserver.cli.operations import OperationError
from homeserver.cli.progress import ProgressBar


@click.command()
@config_options
@click.pass_context
def migrate(context: click.Context, config_path: Path | None, dev: bool) -> None:
    """Bring the database to the newest schema. `serve` does so at its start as well."""
    with ProgressBar() as bar:
        report = operate(context, config_path, dev, lambda operations: operations.migrate(bar))
    for step in report.steps:
        click.echo(f"applied {step}")
    click.echo(f"the database is at {report.after}" + ("" if report.steps else ", nothing to do"))


@click.command("check-db")
@config_options
@click.pass_context
def check_db(context: click.Context, config_path: Path | None, dev: bool) -> None:
    """Check every invariant of the database. Exit status 1 where one is violated."""
    with ProgressBar() as bar:
        report = operate(context, config_path, dev, lambda operations: operations.check_database(bar))
    for problem in report.problems:
        click.echo(problem)
    click.echo(f"{report.checked} invariants checked, {len(report.problems)} problems")
    if report.problems:
        context.exit(1)


@click.command()
@config_options
@click.pass_context
def seed(context: click.Context, config_path: Path | None, dev: bool) -> None:
    """Create the sample community and print its logins."""
    with ProgressBar() as bar:
        report = operate(context, config_path, dev, lambda operations: operations.seed(bar), first_start=True)
    if not report.created:
        if report.lines:
            raise OperationError(" ".join(report.lines))
        click.echo("the sample community is there already")
    for line in report.lines:
        click.echo(line)


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE")
@config_options
@click.pass_context
def backup(context: click.Context, target: Path, config_path: Path | None, dev: bool) -> None:
    """Write database, media and signing key to FILE, which must not exist. The server may run meanwhile."""
    if target.exists():
        raise click.BadParameter(f"{target} exists already", param_hint="FILE")
    with ProgressBar() as bar:
        click.echo(operate(context, config_path, dev, lambda operations: operations.backup(target, bar)))


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
@config_options
@click.pass_context
def restore(context: click.Context, source: Path, config_path: Path | None, dev: bool) -> None:
    """Read FILE, written by backup, into an empty data folder and database. The server must not run."""
    with ProgressBar() as bar:
        click.echo(operate(context, config_path, dev, lambda operations: operations.restore(source, bar)))
