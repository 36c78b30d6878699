"""Where media are kept: the choice of `media.storage`, made here and known to nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from homeserver.backup import media_folder
from homeserver.cli.operations import Finding
from homeserver.composition.core import RunInThread, Surroundings
from homeserver.config.files import read_secret, reason_of
from homeserver.config.load import ConfigError
from homeserver.config.schema import S3, Config
from homeserver.http.client import HttpResponse
from homeserver.http.transport import Unreachable
from homeserver.media.bucket import Bucket, BucketHttp, Place
from homeserver.media.bucket_store import OWNER_KEY, BucketStore
from homeserver.media.files import MediaFiles
from homeserver.media.sigv4 import Credentials
from homeserver.media.storage import FolderStore, MediaStore
from homeserver.runtime.clock import Clock

_PROBE: Final = "chaos-doctor"
_NOBODY: Final = "0" * 64


def build_storage(config: Config, around: Surroundings) -> MediaStore:
    """The one that the configuration names. Raises ConfigError for a secret that cannot be read."""
    settings, run = config.media.s3, around.run_in_thread
    if settings is None:
        return FolderStore(MediaFiles(media_folder(config)), run, around.clock, around.entropy.id)
    # Not the folder of the other kind: what lies here may be removed, and what lies there must not.
    cache = FolderStore(MediaFiles(config.data_dir / "media-cache"), run, around.clock, around.entropy.id)
    bucket = open_bucket(settings, around.appservice_http or _NoNetwork(), run, around.clock)
    return BucketStore(config.server_name, bucket, cache, settings.cache_bytes, run, around.clock, around.log)


def open_bucket(settings: S3, http: BucketHttp, run_in_thread: RunInThread, clock: Clock) -> Bucket:
    """The bucket. Asks nobody yet. Raises ConfigError for a secret that cannot be read."""
    prefix = settings.prefix.rstrip("/")
    place = Place(
        settings.base_url, settings.bucket, f"{prefix}/" if prefix else "", settings.addressing == "path"
    )
    credentials = Credentials(settings.access_key_id, _secret_of(settings), settings.region)
    return Bucket(http, place, credentials, run_in_thread, clock)


def _secret_of(settings: S3) -> str:
    try:
        return read_secret(settings)
    except (OSError, ValueError) as error:
        raise ConfigError([f"media.s3.secret_access_key_file: {reason_of(error)}"]) from None


async def examine_storage(
    config: Config, http: BucketHttp, run_in_thread: RunInThread, clock: Clock
) -> list[Finding]:
    """What `chaos doctor` says about the bucket, if there is one. Writes one small object, and takes it away."""
    settings = config.media.s3
    if settings is None:
        return []
    findings = list(_left_behind(config))
    try:
        bucket = open_bucket(settings, http, run_in_thread, clock)
        owner = await bucket.get_note(OWNER_KEY)
        if owner not in (None, config.server_name):
            where = f"bucket {bucket.place}, prefix {settings.prefix!r}"
            problem = f"{where}: {(owner or '')[:255]!r} keeps its media there; take another prefix"
            return [*findings, Finding("error", "media", problem)]
        await bucket.put_note(_PROBE, config.server_name)
        came = await bucket.get_note(_PROBE)
        await bucket.remove_note(_PROBE)
        await bucket.modified_s(_NOBODY)
    except OSError as error:
        return [*findings, Finding("error", "media", " ".join(str(error).split()))]
    except ConfigError as error:
        return [*findings, Finding("error", "media", str(error))]
    if came != config.server_name:
        detail = f"bucket {bucket.place} does not give back what was put there"
        return [*findings, Finding("error", "media", detail)]
    return [*findings, Finding("ok", "media", f"bucket {bucket.place} can be written, read and listed")]


def _left_behind(config: Config) -> Iterator[Finding]:
    files = media_folder(config) / "files"
    if files.is_dir() and any(files.iterdir()):
        yield Finding(
            "warning",
            "media",
            f"files in {files} are not served while media.storage is s3: copy them to the bucket, under files/",
        )


class _NoNetwork:
    """For commands that work on the database alone."""

    def request(self, method: str, url: str, **_: Any) -> Deferred[HttpResponse]:  # noqa: ARG002
        """Nobody is there."""
        return fail(Unreachable("there is no network here"))
