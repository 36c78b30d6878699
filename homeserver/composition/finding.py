"""What is searched for by words: texts and people."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.composition.core import Core
from homeserver.config.settings import Settings
from homeserver.rooms.reads.pagination import Pagination
from homeserver.rooms.reads.people import UserDirectory
from homeserver.rooms.reads.reading import Archive, Ignoring
from homeserver.rooms.reads.search import Searches
from homeserver.rooms.reads.search_index import FOLLOWER, SearchIndex
from homeserver.rooms.reads.visibility import Sights
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.placement import MOVING
from homeserver.stream.followers import Follower


@dataclass(frozen=True, slots=True)
class Finding:
    """See the module."""

    index: SearchIndex
    searches: Searches
    people: UserDirectory
    tasks: TaskGroup

    @property
    def follower(self) -> Follower:
        """What fills the index."""
        return Follower(FOLLOWER, self.index.handle, memory=self.index, kinds=MOVING)

    def begin(self) -> None:
        """Index what was there before, in the background."""
        self.tasks.spawn_restarting("index older texts", self.index.fill)


def build_finding(
    core: Core,
    settings: Settings,
    sights: Sights,
    pagination: Pagination,
    archive: Archive,
    ignoring: Ignoring,
    tasks: TaskGroup,
) -> Finding:
    """Over what reads rooms."""
    database = core.around.database
    index = SearchIndex(database, core.committer, core.around.clock)
    searches = Searches(database, core.interner, core.index, sights, pagination, archive, index)
    people = UserDirectory(
        core.config.server_name,
        database,
        core.index,
        ignoring,
        index,
        lambda: settings.config.user_directory.search_all_users,
    )
    return Finding(index, searches, people, tasks)
