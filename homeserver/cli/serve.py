"""`chaos serve`: one line per listener on standard output when ready; SIGTERM and SIGINT stop, SIGHUP reloads."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.cli.host import Host, config_options, find_host, load, prepare
from homeserver.cli.operations import Listening, Operations, RunningServer
from homeserver.config.load import ConfigError
from homeserver.config.reload import merge_reloadable
from homeserver.config.schema import Config
from homeserver.runtime.log import Log, capture_twisted, make_log
from homeserver.runtime.memory import Collector, share_one_arena
from homeserver.runtime.process import run_server
from homeserver.runtime.signals import notify_service_manager

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@config_options
@click.pass_context
def serve(context: click.Context, config_path: Path | None, dev: bool) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    With --dev and no configuration: open registration, no rate limits, and a sample community at the first start.
    """
    share_one_arena()
    host = find_host(context)
    config = load(host, config_path, dev=dev)
    log = server_log(host, config)
    capture_twisted(log)
    if config.redis is not None:
        log.warning("configured, but not used yet", key="redis")
    if prepare(host, config):
        log.info("signing key created", file=str(config.signing_key_path))
    operations = host.application().make_operations(config, host.surroundings(log))
    run_server(host.reactor, host.clock, log, Life(host, config, config_path, dev, log, operations))


def server_log(host: Host, config: Config) -> Log:
    wanted = config.logging.format
    console = wanted == "console" or (wanted == "auto" and host.log_stream.isatty())
    return make_log(host.clock, host.log_stream, level=config.logging.level, console=console)


def listening_line(listening: Listening) -> str:
    """`listening on http://localhost:8008 (client, federation, web, health)`"""
    name = "localhost" if listening.bind in _LOOPBACK else listening.bind
    if ":" in name:
        name = f"[{name}]"
    return f"listening on {listening.scheme}://{name}:{listening.port} ({', '.join(listening.serve)})"


class Life:
    """The server's life as its process sees it (`homeserver.runtime.process.ServerLife`)."""

    __slots__ = (
        "_collector", "_config", "_config_path", "_development", "_host", "_log", "_operations", "_server",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        config: Config,
        config_path: Path | None,
        development: bool,
        log: Log,
        operations: Operations,
    ) -> None:
        self._host = host
        self._config = config
        self._config_path = config_path
        self._development = development
        self._log = log
        self._operations = operations
        self._server: RunningServer | None = None
        self._collector = Collector(host.clock)

    async def start(self) -> None:
        self._server = await self._operations.start(development=self._development)
        for listening in self._server.listening:
            click.echo(listening_line(listening))
        for note in self._server.notes:
            click.echo(note)
        self._collector.start()
        notify_service_manager(self._host.environment, "READY=1")
        self._log.info("ready", server_name=self._config.server_name)

    async def stop(self) -> None:
        notify_service_manager(self._host.environment, "STOPPING=1")
        self._log.info("stopping")
        self._collector.stop()
        try:
            if self._server is not None:
                await self._server.stop()
        finally:
            await self._operations.close()
        self._log.info("stopped")

    @property
    def ending(self) -> str:
        return self._server.ending if self._server is not None else "the start"

    def reload(self) -> None:
        """A file that is wrong, or gone, changes nothing; certificates are renewed beside the configuration."""
        if self._server is not None:
            for problem in self._server.renew_certificates():
                self._log.error("certificate not renewed", problem=problem)
        try:
            read = load(self._host, self._config_path, dev=self._development)
        except ConfigError as error:
            self._log.error("configuration not reloaded", problems=error.problems)
            return
        self._config, changed, waiting = merge_reloadable(self._config, read)
        if self._server is not None and changed:
            self._server.reload(self._config)
        self._log.info("configuration reloaded", changed=changed, waiting_for_restart=waiting)
