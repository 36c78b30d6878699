"""The servers that the bench and the client tests run against: CHAOS and the Synapse of `tests.interop`.

A target prepares a fresh server in an empty folder; what comes back is started, killed and measured alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.interop import synapse
from tests.interop.authority import Wire
from tests.interop.environment import REPOSITORY
from tests.interop.process import ServerCommand, ServerProcess
from tests.support.ports import take_port


@dataclass(frozen=True, slots=True)
class Target:
    """A server that can be measured. `prepare` takes a new folder and "sqlite" or a postgresql:// address.

    `prepare_federated` takes a wire as well, on which the server federates.
    """

    name: str
    prepare: Callable[[Path, str], ServerProcess]
    prepare_federated: Callable[[Path, str, Wire], ServerProcess]


def build_chaos_config(folder: Path, port: int, database: str, wire: Wire | None = None) -> dict[str, object]:
    """chaos.yaml: defaults, save for what a closed test machine needs."""
    config: dict[str, object] = {
        "server_name": synapse.SERVER_NAME,
        "public_url": f"http://127.0.0.1:{port}",
        "data_dir": str(folder / "data"),
        "database": database,
        "listeners": [{"bind": "127.0.0.1", "port": port, "serve": ["client", "federation", "health"]}],
        "registration": {"mode": "open", "shared_secret": synapse.REGISTRATION_SECRET},
        "federation": {"trusted_key_servers": []},
        "rate_limits": {"enabled": False},
        # Tests kill servers so often that nothing would ever be sent.
        "delayed_events": {"grace_s": 0},
    }
    if wire is not None:
        config |= build_federation(port, wire)
    return config


def build_federation(port: int, wire: Wire) -> dict[str, object]:
    """What chaos.yaml needs beside that to federate on loopback addresses, with certificates checked."""
    tls = {"certificate_file": str(wire.certificate_file), "private_key_file": str(wire.private_key_file)}
    return {
        "server_name": wire.server_name,
        "listeners": [
            {"bind": "127.0.0.1", "port": port, "serve": ["client", "health"]},
            {"bind": wire.address, "port": wire.inner_port, "serve": ["federation"], "tls": tls},
        ],
        "outbound": {"ca_file": str(wire.ca_file), "allow_private_ranges": ["127.0.0.0/8"]},
        "federation": {"trusted_key_servers": [], "retry_min_s": 0.3, "retry_max_s": 1.0},
    }


def prepare_chaos(
    folder: Path,
    database: str,
    launcher: Sequence[str] = ("-m", "homeserver"),
    wire: Wire | None = None,
) -> ServerProcess:
    """A new CHAOS in `folder`, run by this interpreter. With a wire it federates there, under the wire's name."""
    port = take_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir()
    config_file = folder / "chaos.yaml"
    config_file.write_text(yaml.safe_dump(build_chaos_config(folder, port, database, wire)))
    search_path = os.pathsep.join(str(REPOSITORY / part) for part in (".", "synapse-compat"))
    command = ServerCommand(
        name="CHAOS",
        arguments=[sys.executable, *launcher, "serve", "--config", str(config_file)],
        port=port,
        log_file=folder / "output.log",
        environment={"PYTHONPATH": search_path},
        working_folder=folder,
    )
    return ServerProcess(command)


TARGETS: Mapping[str, Target] = {
    "synapse": Target(
        f"Synapse {synapse.SYNAPSE_VERSION}",
        synapse.prepare,
        lambda folder, database, wire: synapse.prepare(folder, database, wire=wire),
    ),
    "chaos": Target(
        "CHAOS", prepare_chaos, lambda folder, database, wire: prepare_chaos(folder, database, wire=wire)
    ),
}
