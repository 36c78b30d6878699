"""A real Synapse from PyPI in a virtual environment of its own: the yardstick of the bench and of interop.

`python -m tests.interop.synapse setup` makes the environment; `... run` starts one server in the foreground.
It must never share an environment with CHAOS: the two pin different versions of the same libraries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.interop.authority import Wire
from tests.interop.environment import ensure_environment
from tests.interop.process import ServerCommand, ServerProcess
from tests.support.ports import take_port

SYNAPSE_VERSION = "1.163.2"
# The binary driver, since the source one needs a compiler and the headers of libpq.
REQUIREMENTS = (f"matrix-synapse=={SYNAPSE_VERSION}", "psycopg2-binary==2.9.13")
REGISTRATION_SECRET = "shared secret of a throw-away test server"
SERVER_NAME = "yardstick.test"

# Every limit that a load test could meet; what counts is the server's own speed, not its brakes.
_RATE_LIMITS = (
    "rc_message",
    "rc_registration",
    "rc_registration_token_validity",
    "rc_admin_redaction",
    "rc_3pid_validation",
    "rc_room_creation",
    "rc_presence",
    "rc_delayed_event_mgmt",
    "rc_reports",
    "rc_key_requests",
    "rc_media_create",
)
_NO_LIMIT = {"per_second": 1_000_000, "burst_count": 1_000_000}


def ensure_synapse() -> Path:
    """Install Synapse unless it is there already; return the interpreter that has it."""
    return ensure_environment("synapse", REQUIREMENTS) / "python"


def build_database_section(database: str, folder: Path) -> dict[str, object]:
    """Synapse's `database` section for "sqlite" or a `postgresql://` address."""
    if database == "sqlite":
        return {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}}
    address = urlsplit(database)
    # A Unix socket's folder does not fit where an address has its host: libpq takes it from the query.
    host = parse_qs(address.query).get("host", [address.hostname or ""])[0]
    arguments: dict[str, object] = {
        "user": unquote(address.username or ""),
        "dbname": address.path.lstrip("/"),
        "host": host,
        "port": address.port or 5432,
        "cp_min": 5,
        "cp_max": 10,
    }
    if address.password is not None:
        arguments["password"] = unquote(address.password)
    # Its default refuses a database whose collation is not C; ours is made so, but say it here as well.
    return {"name": "psycopg2", "args": arguments, "allow_unsafe_locale": True}


def build_config(folder: Path, port: int, database: str, server_name: str) -> dict[str, object]:
    """The content of homeserver.yaml: defaults, save for what a closed test machine needs."""
    listener = {
        "port": port,
        "type": "http",
        "tls": False,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": ["client", "federation"], "compress": False}],
    }
    config: dict[str, object] = {
        "server_name": server_name,
        "pid_file": str(folder / "homeserver.pid"),
        "listeners": [listener],
        "database": build_database_section(database, folder),
        "log_config": str(folder / "log.yaml"),
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "macaroon_secret_key": "macaroons of a throw-away test server",
        "form_secret": "forms of a throw-away test server",
        "registration_shared_secret": REGISTRATION_SECRET,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "report_stats": False,
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        # No figure measures a password hash, and hundreds of users are made before the first one.
        "bcrypt_rounds": 4,
        "rc_login": {"address": _NO_LIMIT, "account": _NO_LIMIT, "failed_attempts": _NO_LIMIT},
        "rc_joins": {"local": _NO_LIMIT, "remote": _NO_LIMIT},
        "rc_invites": {"per_room": _NO_LIMIT, "per_user": _NO_LIMIT, "per_issuer": _NO_LIMIT},
        "rc_joins_per_room": _NO_LIMIT,
    }
    config.update(dict.fromkeys(_RATE_LIMITS, _NO_LIMIT))
    # This one hands out a bare number of requests where its default would delay a burst of them.
    config["rc_presence"] = {"per_user": _NO_LIMIT}
    return config


def build_federation(wire: Wire) -> dict[str, object]:
    """What homeserver.yaml needs beside that to federate on loopback addresses, with certificates checked.

    Retries are short, since the tests stop servers and wait until they are found again.
    """
    listener = {
        "port": wire.inner_port,
        "type": "http",
        "tls": True,
        "bind_addresses": [wire.address],
        "resources": [{"names": ["federation"], "compress": False}],
    }
    return {
        "listeners": [listener],
        "tls_certificate_path": str(wire.certificate_file),
        "tls_private_key_path": str(wire.private_key_file),
        "federation_custom_ca_list": [str(wire.ca_file)],
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "allow_public_rooms_over_federation": True,
        "room_list_publication_rules": [{"action": "allow"}],
        "allow_profile_lookup_over_federation": True,
        "allow_device_name_lookup_over_federation": True,
        "presence": {"enabled": True},
        "federation_rr_transactions_per_room_per_second": 1_000_000,
        "rc_federation": {
            "window_size": 1000,
            "sleep_limit": 1_000_000,
            "sleep_delay": 1,
            "reject_limit": 1_000_000,
            "concurrent": 1000,
        },
        "federation": {
            # Milliseconds.
            "client_timeout": 15_000,
            "max_short_retries": 1,
            "max_short_retry_delay": 100,
            "max_long_retries": 1,
            "max_long_retry_delay": 500,
            "destination_min_retry_interval": 500,
            "destination_retry_multiplier": 1,
            "destination_max_retry_interval": 1_000,
        },
    }


def build_log_config(folder: Path) -> dict[str, object]:
    """Warnings only, into a file: what a production server is told to write, without the cost of chatter."""
    return {
        "version": 1,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "formatter": "plain",
                "filename": str(folder / "homeserver.log"),
            }
        },
        "root": {"level": "WARNING", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }


def prepare(
    folder: Path, database: str, server_name: str = SERVER_NAME, wire: Wire | None = None
) -> ServerProcess:
    """Write the configuration and keys of a new Synapse into `folder`; the caller starts what comes back.

    With a wire it federates there, under the wire's name.
    """
    python = ensure_synapse()
    port = take_port()
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / "homeserver.yaml"
    config = build_config(folder, port, database, wire.server_name if wire else server_name)
    if wire is not None:
        listeners = config["listeners"]
        config |= build_federation(wire)
        config["listeners"] = [*listeners, *config["listeners"]]  # type: ignore[misc]
    config_file.write_text(yaml.safe_dump(config))
    (folder / "log.yaml").write_text(yaml.safe_dump(build_log_config(folder)))
    base = [str(python), "-m", "synapse.app.homeserver", "--config-path", str(config_file)]
    subprocess.run([*base, "--generate-keys"], check=True, cwd=folder, capture_output=True)
    command = ServerCommand(
        name=f"Synapse {SYNAPSE_VERSION}",
        arguments=base,
        port=port,
        log_file=folder / "output.log",
        environment={},
        working_folder=folder,
    )
    return ServerProcess(command)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.synapse", description=__doc__)
    parser.add_argument("action", choices=("setup", "run"))
    parser.add_argument("--database", default="sqlite", help='"sqlite" or a postgresql:// address')
    arguments = parser.parse_args()
    python = ensure_synapse()
    print(f"Synapse {SYNAPSE_VERSION} is installed for {python}")
    if arguments.action == "setup":
        return 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="synapse-")))
        server = stack.enter_context(prepare(folder, arguments.database))
        server.start()
        print(f"listening on {server.base_url} as {SERVER_NAME}; Enter or Ctrl-C ends it", flush=True)
        try:
            sys.stdin.readline()
        except KeyboardInterrupt:
            print()
        server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
