"""The content repository as a whole: what the composition root holds."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.config.schema import Media
from homeserver.db.threads import Database
from homeserver.http.client import HttpClient
from homeserver.media.administration import MediaDesk
from homeserver.media.downloads import Downloads
from homeserver.media.preview import Previews
from homeserver.media.remote import RemoteMedia
from homeserver.media.repo import MEDIA_ID_LENGTH, MediaRepository
from homeserver.media.storage import MediaStore
from homeserver.media.sweep import Sweeper
from homeserver.media.thumbnails import Thumbnails
from homeserver.media.types import RunInThread
from homeserver.peers.types import PeerClient
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store.ids import Interner
from homeserver.store.work import Worker


class MediaService:
    """Uploads, downloads, files of other servers, thumbnails, previews of links, and the sweep of what nobody needs."""

    def __init__(
        self,
        server_name: str,
        storage: MediaStore,
        database: Database,
        worker: Worker,
        interner: Interner,
        run_in_thread: RunInThread,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        settings: Callable[[], Media],
        client: PeerClient,
        http: HttpClient | None,
    ) -> None:
        self._storage = storage
        self._log = log
        self.remote = RemoteMedia(client, http, worker, storage, run_in_thread, clock, log, settings)
        self.repository = MediaRepository(
            server_name, database, worker, storage, run_in_thread, clock, entropy, log, settings, self.remote
        )
        self.thumbnails = Thumbnails(storage, run_in_thread, clock, log, settings().max_thumbnail_pixels)
        self.downloads = Downloads(
            self.repository, self.thumbnails, storage, run_in_thread, clock, entropy, log, settings
        )
        self.previews = Previews(
            server_name,
            http,
            database,
            worker,
            storage,
            self.thumbnails,
            run_in_thread,
            clock,
            log,
            settings,
            lambda: entropy.id(MEDIA_ID_LENGTH),
        )
        self.desk = MediaDesk(server_name, database, worker, interner, storage, clock)
        self.sweeper = Sweeper(database, worker, storage, clock, log, lambda: settings().remote_retention_s)

    def begin(self) -> None:
        """Start what goes by the clock."""
        self.sweeper.begin()
        Deferred.fromCoroutine(self._storage.prepare()).addErrback(self._unfit)

    def _unfit(self, failure: Failure) -> None:
        self._log.error("media cannot be kept at the moment", problem=str(failure.value))

    def stop(self) -> None:
        """Let go of the timer, of the worker process, and of what comes in."""
        self.remote.stop()
        self.previews.stop()
        self.sweeper.stop()
        self.thumbnails.stop()
        self._storage.stop()
