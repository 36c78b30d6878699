"""What `chaos init` and the first start write: the configuration file and the signing key.

Neither ever overwrites a file: a lost signing key cannot be replaced without losing the server's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from homeserver.config.docs import sample_yaml
from homeserver.config.load import ConfigError, build_config, load_config, parse_config
from homeserver.config.schema import Config
from homeserver.config.signing_key import create_private_file, new_signing_key, write_signing_key
from homeserver.runtime.entropy import Entropy


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was written; `key_created` is false where a key was there already and is kept."""

    config_path: Path
    key_path: Path
    key_created: bool


def initialise(
    server_name: str, config_path: Path, environment: Mapping[str, str], entropy: Entropy
) -> Initialised:
    """Write a configuration for `server_name` and its signing key. Raises `ConfigError`."""
    text = sample_yaml(server_name)
    folder = config_path.absolute().parent
    # Read before anything is written: a bad name must leave no file behind. The name on the command line
    # goes into the file, so a variable may not contradict it now and vanish later.
    named = {**environment, "CHAOS_SERVER_NAME": server_name}
    build_config({"server_name": server_name}, named, folder=folder)
    config = parse_config(text.encode(), named, folder=folder, name=str(config_path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        create_private_file(config_path, text)
    except FileExistsError as error:
        raise ConfigError([f"{config_path}: exists already, and is left as it is"]) from error
    except OSError as error:
        raise ConfigError([f"{config_path}: {error.strerror or error}"]) from error
    return Initialised(config_path, config.signing_key_path, key_created=ensure_signing_key(config, entropy))


def ensure_signing_key(config: Config, entropy: Entropy) -> bool:
    """Make the signing key where none is. A file named in the configuration must exist: a typo there
    would otherwise give the server a new identity."""
    path = config.signing_key_path
    try:
        if path.exists():
            return False
        if config.signing_key_file is not None:
            raise ConfigError([f"signing_key_file: {path} does not exist"])
        # Its first file: what comes to lie beside the key is for nobody else on this machine either.
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_signing_key(path, new_signing_key(entropy))
    except FileExistsError:
        return False  # another process of the same server was faster
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    return True


def development_config(environment: Mapping[str, str], folder: Path) -> Config:
    """`chaos serve --dev`: nothing to configure, open to everybody on this machine."""
    document = {
        "server_name": "localhost",
        "public_url": "http://localhost:8008",
        "registration": {"mode": "open"},
        "rate_limits": {"enabled": False},
    }
    return build_config(document, environment, folder=folder)


def read_config(
    path: Path | None, environment: Mapping[str, str], *, development: bool, folder: Path
) -> Config:
    """The configuration of a command: the file named, or the one in `folder`, or the one for development."""
    if path is None and development:
        return development_config(environment, folder)
    return load_config(path or folder / "chaos.yaml", environment)
