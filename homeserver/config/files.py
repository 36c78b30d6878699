"""The files that a start reads beside the signing key and the registrations: what is wrong with them, before it begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from homeserver.config.load import ConfigError
from homeserver.config.schema import S3, Config, TlsFiles
from homeserver.http.client_tls import ClientTls
from homeserver.http.tls import server_context

_SECRET_MOST_BYTES = 4096


def check_files(config: Config) -> None:
    """Raises ConfigError with everything that `file_problems` finds."""
    problems = file_problems(config)
    if problems:
        raise ConfigError(problems)


def file_problems(config: Config) -> list[str]:
    """One line `key: what is wrong` for each key whose file cannot be used."""
    problems = network_file_problems(config)
    if config.media.s3 is not None:
        problems |= _try("media.s3.secret_access_key_file", partial(read_secret, config.media.s3))
    return [f"{key}: {reason}" for key, reason in problems.items()]


def network_file_problems(config: Config) -> dict[str, str]:
    """What is wrong, by key, with the files for TLS alone: the listeners', and the authorities for connections out."""
    problems: dict[str, str] = {}
    for key, tls in listener_files(config).items():
        problems |= _try(key, partial(server_context, tls.certificate_file, tls.private_key_file))
    if config.outbound.ca_file is not None:
        problems |= _try("outbound.ca_file", partial(ClientTls, config.outbound.ca_file))
    return problems


def listener_files(config: Config) -> dict[str, TlsFiles]:
    """The files of the listeners that have TLS, by key."""
    return {
        f"listeners[{number}].tls": listener.tls
        for number, listener in enumerate(config.listeners)
        if listener.tls is not None
    }


def read_secret(settings: S3) -> str:
    """The secret access key. Raises OSError, or ValueError with one clear line."""
    if settings.secret_access_key is not None:
        return settings.secret_access_key
    path = settings.secret_access_key_file
    assert path is not None, "checked when the configuration is read"
    with path.open("rb") as file:
        raw = file.read(_SECRET_MOST_BYTES + 1)
    try:
        secret = raw.decode("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(raw) > _SECRET_MOST_BYTES or not secret.isprintable():
        raise ValueError(f"{path} does not hold one secret alone")
    return secret


def _try(key: str, load: Callable[[], object]) -> dict[str, str]:
    try:
        load()
    except (OSError, ValueError) as error:
        return {key: reason_of(error)}
    return {}


def reason_of(error: OSError | ValueError) -> str:
    """What is wrong with a file, in one line that names it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return str(error)
