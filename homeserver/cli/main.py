"""The `chaos` group, and how errors become one line and an exit status.

0: done. 1: could not be done. 2: wrong input. 130: interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from homeserver import __version__
from homeserver.cli.host import Host
from homeserver.cli.lazy import LazyGroup
from homeserver.cli.operations import OperationError
from homeserver.config.load import ConfigError
from homeserver.config.signing_key import SigningKeyError
from homeserver.db.errors import DatabaseError
from homeserver.runtime.process import InterruptedWorkError

WRONG_INPUT = 2
INTERRUPTED = 130


@click.group(
    cls=LazyGroup,
    lazy={
        "serve": ("homeserver.cli.serve:serve", "Run the server."),
        "init": ("homeserver.cli.setup:init", "Write a configuration and a signing key."),
        "check-config": ("homeserver.cli.setup:check_config", "Check the configuration."),
        "user": ("homeserver.cli.users:user", "Add and change accounts."),
        "token": ("homeserver.cli.users:token", "Registration tokens."),
        "migrate": ("homeserver.cli.database:migrate", "Bring the database to the newest schema."),
        "check-db": ("homeserver.cli.database:check_db", "Check every invariant of the database."),
        "seed": ("homeserver.cli.database:seed", "Create the sample community."),
        "backup": ("homeserver.cli.database:backup", "Write everything to one file."),
        "restore": ("homeserver.cli.database:restore", "Read what backup has written."),
        "doctor": ("homeserver.cli.setup:doctor", "Look for what commonly goes wrong."),
        "sim": ("homeserver.cli.simulation:sim", "Run the deterministic simulation."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="chaos")
def chaos() -> None:
    """CHAOS: a Matrix homeserver for communities."""


def run_command(arguments: Sequence[str], host: Host) -> int:
    """Run one command; returns the exit status."""
    status = _run(arguments, host)
    try:
        if sys.stderr is not None:  # as it is with 2>&-
            sys.stderr.flush()
    except OSError:
        # What it still holds is written once more when Python ends, and where that fails the exit status is 120.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
    return status


def _run(arguments: Sequence[str], host: Host) -> int:
    try:
        status = chaos.main(list(arguments), prog_name="chaos", standalone_mode=False, obj=host)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return WRONG_INPUT
    except click.ClickException as error:
        return _fail([error.format_message()], error.exit_code)
    except ConfigError as error:
        return _fail(error.problems, WRONG_INPUT)
    except SigningKeyError as error:
        return _fail([str(error)], WRONG_INPUT)
    except OperationError as error:
        return _fail([str(error)], error.status)
    except DatabaseError as error:
        return _fail([f"database: {str(error) or type(error).__name__}"], 1)
    except (click.Abort, KeyboardInterrupt, InterruptedWorkError):
        return _fail(["interrupted"], INTERRUPTED)
    except OSError as error:
        return _fail([_describe(error)], 1)
    return status if isinstance(status, int) else 0


def _describe(error: OSError) -> str:
    if error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)


def _fail(problems: Sequence[str], status: int) -> int:
    with suppress(OSError):  # nobody reads it: the status tells
        for problem in problems:
            click.echo(f"chaos: {' '.join(problem.split())}", err=True)
    return status
