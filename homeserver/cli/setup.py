"""`chaos init`, `chaos check-config`, `chaos doctor`: before the first start, and when something is wrong."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.cli.host import config_options, find_host, load, operate
from homeserver.config.files import file_problems
from homeserver.config.init import initialise
from homeserver.config.load import ConfigError
from homeserver.config.registrations import load_registrations
from homeserver.config.signing_key import SigningKeyError, read_signing_keys

_MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


@click.command()
@click.option("--server-name", required=True, metavar="NAME", help="The part after the colon in user names.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("chaos.yaml"),
    show_default=True,
    metavar="FILE",
    help="The file to write; it must not exist.",
)
@click.pass_context
def init(context: click.Context, server_name: str, config_path: Path) -> None:
    """Write a configuration and a signing key. Nothing is ever overwritten."""
    host = find_host(context)
    done = initialise(server_name, host.folder / config_path, host.environment, host.entropy)
    click.echo(f"wrote {done.config_path}")
    click.echo(f"{'wrote' if done.key_created else 'kept'} {done.key_path}  (keep a copy in a safe place)")
    click.echo(f"start with: chaos serve --config {config_path}")


@click.command("check-config")
@config_options
@click.pass_context
def check_config(context: click.Context, config_path: Path | None, dev: bool) -> None:
    """Check the configuration and show every problem at once, one line each."""
    config = load(find_host(context), config_path, dev=dev)
    problems: list[str] = []
    try:
        if config.signing_key_path.exists() or config.signing_key_file is not None:
            read_signing_keys(config.signing_key_path)
    except SigningKeyError as error:
        problems.append(str(error))
    try:
        load_registrations(config)
    except ConfigError as error:
        problems.extend(error.problems)
    problems.extend(file_problems(config))
    if problems:
        raise ConfigError(problems)
    if config.redis is not None:
        click.echo("chaos: warning: redis: configured, but not used yet", err=True)
    click.echo(f"the configuration of {config.server_name} is fine")


@click.command()
@config_options
@click.pass_context
def doctor(context: click.Context, config_path: Path | None, dev: bool) -> None:
    """Look at everything that commonly goes wrong. Exit status 1 where something is."""
    findings = operate(context, config_path, dev, lambda operations: operations.diagnose())
    for finding in findings:
        click.echo(f"{_MARKS[finding.level]} {finding.subject}: {finding.detail}")
    if any(finding.level == "error" for finding in findings):
        context.exit(1)
