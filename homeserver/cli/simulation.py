"""`chaos sim`: whole servers in one process, on a seed that replays."""

from __future__ import annotations

import click

from homeserver.cli.host import find_host
from homeserver.cli.progress import ProgressBar
from homeserver.runtime.process import run_to_end


@click.command()
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="The first seed.  [default: a drawn one]"
)
@click.option(
    "--seeds", type=click.IntRange(1, 1_000_000), default=1, show_default=True, metavar="N", help="How many."
)
@click.pass_context
def sim(context: click.Context, seed: int | None, seeds: int) -> None:
    """Run the deterministic simulation. Exit status 1 where a seed fails; the same seed fails again."""
    host = find_host(context)
    first = seed if seed is not None else int.from_bytes(host.entropy.bytes(4), "big")
    click.echo(f"seed {first}" + (f" to {first + seeds - 1}" if seeds > 1 else ""))
    surroundings = host.surroundings(host.quiet_log())
    with ProgressBar() as bar:
        report = run_to_end(
            host.reactor, lambda: host.application().simulate(first, seeds, surroundings, bar)
        )
    for failed, problem in sorted(report.failed.items()):
        click.echo(f"seed {failed}: {problem}")
    click.echo(f"{report.seeds} seeds, {report.events} events, {len(report.failed)} failed")
    if report.failed:
        context.exit(1)
