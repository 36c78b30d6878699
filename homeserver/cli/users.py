"""`chaos user add|password|admin|list` and `chaos token create`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click

from homeserver.cli.host import config_options, operate
from homeserver.cli.operations import NewRegistrationToken, Operations, UserLine, WrongInputError

MAX_PASSWORD = 512
_PAGE = 500
# spec: client-server-api#token-authenticated-registration
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,64}")


@click.group()
def user() -> None:
    """Add and change accounts. USER is a localpart (alice) or a user ID (@alice:example.org)."""


@user.command("add")
@click.argument("user_name", metavar="USER")
@click.option("--admin", is_flag=True, help="Make an administrator.")
@click.option("--password", metavar="TEXT", help="The password. Others on this machine may see it.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)
@config_options
@click.pass_context
def add_user(
    context: click.Context,
    user_name: str,
    admin: bool,
    password: str | None,
    password_stdin: bool,
    config_path: Path | None,
    dev: bool,
) -> None:
    """Create an account. Asks for the password unless told where to find it."""
    chosen = _choose_password(password, password_stdin)
    user_id = operate(
        context,
        config_path,
        dev,
        lambda operations: operations.add_user(user_name, chosen, admin=admin),
        first_start=True,
    )
    click.echo(f"created {user_id}{' (administrator)' if admin else ''}")


@user.command("password")
@click.argument("user_name", metavar="USER")
@click.option("--keep-sessions", is_flag=True, help="Leave the account's devices logged in.")
@click.option("--password", metavar="TEXT", help="The password. Others on this machine may see it.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)
@config_options
@click.pass_context
def change_password(
    context: click.Context,
    user_name: str,
    keep_sessions: bool,
    password: str | None,
    password_stdin: bool,
    config_path: Path | None,
    dev: bool,
) -> None:
    """Set an account's password and log its devices out."""
    chosen = _choose_password(password, password_stdin)
    user_id = operate(
        context,
        config_path,
        dev,
        lambda operations: operations.set_password(user_name, chosen, log_out=not keep_sessions),
        first_start=True,
    )
    click.echo(f"changed the password of {user_id}")


@user.command("admin")
@click.argument("user_name", metavar="USER")
@click.option("--revoke", is_flag=True, help="Take the rights away.")
@config_options
@click.pass_context
def change_admin(
    context: click.Context, user_name: str, revoke: bool, config_path: Path | None, dev: bool
) -> None:
    """Make somebody an administrator of the server."""
    user_id = operate(
        context,
        config_path,
        dev,
        lambda operations: operations.set_admin(user_name, admin=not revoke),
        first_start=True,
    )
    click.echo(f"{user_id} is {'no longer' if revoke else 'now'} an administrator")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_options
@click.pass_context
def list_users(context: click.Context, as_json: bool, config_path: Path | None, dev: bool) -> None:
    """List the accounts of this server."""

    async def pages(operations: Operations) -> None:
        after: str | None = None
        while lines := await operations.list_users(after=after, limit=_PAGE):
            for line in lines:
                click.echo(_json_line(line) if as_json else _text_line(line))
            after = lines[-1].user_id

    operate(context, config_path, dev, pages, first_start=True)


@click.group()
def token() -> None:
    """Registration tokens, for `registration: {mode: token}`."""


@token.command("create")
@click.option("--token", "text", metavar="TEXT", help="The token itself.  [default: a drawn one]")
@click.option(
    "--uses", type=click.IntRange(1, 1_000_000_000), metavar="N", help="How often.  [default: no limit]"
)
@click.option(
    "--expires-in-s",
    type=click.IntRange(1, 3_153_600_000),
    metavar="SECONDS",
    help="How long.  [default: no limit]",
)
@config_options
@click.pass_context
def create_token(
    context: click.Context,
    text: str | None,
    uses: int | None,
    expires_in_s: int | None,
    config_path: Path | None,
    dev: bool,
) -> None:
    """Create a registration token and print it."""
    if text is not None and not _TOKEN.fullmatch(text):
        raise WrongInputError("--token: up to 64 of the characters A-Z a-z 0-9 . _ ~ -")
    wanted = NewRegistrationToken(text, uses, expires_in_s)
    created = operate(
        context, config_path, dev, lambda operations: operations.create_token(wanted), first_start=True
    )
    click.echo(created)


def _choose_password(given: str | None, from_input: bool) -> str:
    """What was given, if it can be a password."""
    try:
        chosen = _find_password(given, from_input)
        chosen.encode()  # bytes of an argument that are no text come as lone surrogates
    except UnicodeError:
        raise WrongInputError("the password must be UTF-8") from None
    if not chosen:
        raise WrongInputError("the password must not be empty")
    if len(chosen) > MAX_PASSWORD:
        raise WrongInputError(f"the password must not be longer than {MAX_PASSWORD} characters")
    return chosen


def _find_password(given: str | None, from_input: bool) -> str:
    """From the option, from standard input, or asked for twice on a terminal."""
    if given is not None and from_input:
        raise WrongInputError("--password and --password-stdin: only one of the two")
    if from_input:
        return sys.stdin.readline(MAX_PASSWORD + 2).rstrip("\r\n")
    if given is not None:
        return given
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    raise WrongInputError("no terminal to ask for a password: use --password-stdin")


def _text_line(line: UserLine) -> str:
    marks = [word for word, is_so in (("admin", line.admin), ("deactivated", line.deactivated)) if is_so]
    return f"{line.user_id}  {', '.join(marks)}".rstrip()


def _json_line(line: UserLine) -> str:
    return json.dumps(
        {
            "user_id": line.user_id,
            "admin": line.admin,
            "deactivated": line.deactivated,
            "created_ts_ms": line.created_ts_ms,
        }
    )
