"""The content repository as a whole: what the composition root holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from homeserver.config.schema import Media
from homeserver.db.threads import Database
from homeserver.media.downloads import Downloads
from homeserver.media.files import MediaFiles
from homeserver.media.remote import PlainHttp, RemoteMedia
from homeserver.media.repo import MediaRepository
from homeserver.media.sweep import Sweeper
from homeserver.media.thumbnails import Thumbnails
from homeserver.media.types import RunInThread
from homeserver.peers.types import PeerClient
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store.work import Worker


class MediaService:
    """Uploads, downloads, files of other servers, thumbnails, and the sweep of what nobody needs."""

    def __init__(
        self,
        server_name: str,
        folder: Path,
        database: Database,
        worker: Worker,
        run_in_thread: RunInThread,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        settings: Callable[[], Media],
        client: PeerClient,
        http: PlainHttp | None,
    ) -> None:
        files = MediaFiles(folder)
        self.remote = RemoteMedia(client, http, worker, files, run_in_thread, clock, entropy, log, settings)
        self.repository = MediaRepository(
            server_name, database, worker, files, run_in_thread, clock, entropy, log, settings, self.remote
        )
        self.thumbnails = Thumbnails(
            files, run_in_thread, clock, entropy, log, settings().max_thumbnail_pixels
        )
        self.downloads = Downloads(
            self.repository, self.thumbnails, files, run_in_thread, clock, entropy, log, settings
        )
        self.sweeper = Sweeper(
            database, worker, files, run_in_thread, clock, log, lambda: settings().remote_retention_s
        )

    def begin(self) -> None:
        """Start what goes by the clock."""
        self.sweeper.begin()

    def stop(self) -> None:
        """Let go of the timer, of the worker process, and of what comes in."""
        self.remote.stop()
        self.sweeper.stop()
        self.thumbnails.stop()
