"""What all commands share: the host they run on, the options they have in common, and how they call the server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from homeserver.cli.operations import Application, Operations, Surroundings
from homeserver.config.init import ensure_signing_key, read_config
from homeserver.config.schema import Config
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log, make_log
from homeserver.runtime.process import Reactor, run_to_end

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_VARIABLE = "CHAOS_CONFIG"


@dataclass(frozen=True, slots=True)
class Host:
    """The process, as an argument: `homeserver.__main__` supplies the real one, tests another."""

    reactor: Reactor
    clock: Clock
    entropy: Entropy
    environment: Mapping[str, str]
    folder: Path  # the working folder
    log_stream: TextIO
    application: Callable[[], Application]

    def surroundings(self, log: Log) -> Surroundings:
        return Surroundings(self.reactor, self.clock, self.entropy, log)

    def quiet_log(self) -> Log:
        """Commands speak for themselves: only what goes wrong is logged."""
        return make_log(self.clock, self.log_stream, level="warning", console=True)


def config_options(command: Command) -> Command:
    """`--config` and `--dev`, the same for each command that works on a server."""
    command = click.option(
        "--dev",
        is_flag=True,
        help="Without a file: server name localhost, port 8008, data in ./data, SQLite.",
    )(command)
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar=CONFIG_VARIABLE,
        metavar="FILE",
        help="The configuration.  [default: chaos.yaml in this folder]",
    )(command)


def find_host(context: click.Context) -> Host:
    host = context.find_object(Host)
    if host is None:
        raise RuntimeError("commands are called through homeserver.cli.main")
    return host


def load(host: Host, config_path: Path | None, *, dev: bool) -> Config:
    """The configuration of a command. Raises `ConfigError`."""
    return read_config(config_path, host.environment, development=dev, folder=host.folder)


def prepare(host: Host, config: Config) -> bool:
    """What a server needs on its first start: its folder and its signing key. True where the key is new."""
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ensure_signing_key(config, host.entropy)


def operate(
    context: click.Context,
    config_path: Path | None,
    dev: bool,
    work: Callable[[Operations], Coroutine[Any, Any, Result]],
    *,
    first_start: bool = False,
) -> Result:
    """Load the configuration, run `work` with the server's operations in the reactor, and close them.

    `first_start`: the command makes sense before the server has ever run, and prepares what that would have.
    """
    host = find_host(context)
    config = load(host, config_path, dev=dev)
    if first_start:
        prepare(host, config)
    operations = host.application().make_operations(config, host.surroundings(host.quiet_log()))

    async def run() -> Result:
        try:
            return await work(operations)
        finally:
            await operations.close()

    return run_to_end(host.reactor, run)
