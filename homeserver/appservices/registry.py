"""Which application services there are, and whose a name is.

What an expression says of a name never changes while the server runs, so answers are remembered, some of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.config.registrations import AppserviceRegistration, Namespace, any_matches
from homeserver.http.errors import MatrixError
from homeserver.store.tokens import hash_token

# LIMIT(names of one application service whose answer is remembered, some 150 bytes each)
_REMEMBERED_MOST = 50_000


class Appservice:
    """One application service: its registration, and questions about names."""

    __slots__ = ("_known", "_suffix", "id", "registration", "sender_id")

    def __init__(self, registration: AppserviceRegistration, server_name: str) -> None:
        self.registration = registration
        self.id = registration.id
        self.sender_id = f"@{registration.sender_localpart}:{server_name}"
        self._suffix = f":{server_name}"
        self._known: dict[str, bool] = {}

    def owns_user(self, user_id: str) -> bool:
        """Whether a user is one of its own: its sender, or one of this server within its namespaces."""
        # spec: application-service-api#registration (only local users)
        known = self._known.get(user_id)
        if known is None:
            known = user_id == self.sender_id or (
                user_id.endswith(self._suffix) and any_matches(self.registration.users, user_id)
            )
            self._remember(user_id, known)
        return known

    def reserves_user(self, user_id: str) -> bool:
        """Whether nobody else may make, or act as, this user."""
        return user_id == self.sender_id or self._is_reserved(self.registration.users, user_id)

    def owns_alias(self, alias: str) -> bool:
        """Whether an alias of this server is within its namespaces."""
        return alias.endswith(self._suffix) and any_matches(self.registration.aliases, alias)

    def watches_alias(self, alias: str) -> bool:
        """Whether it is interested in rooms with this alias."""
        return any_matches(self.registration.aliases, alias)

    def reserves_alias(self, alias: str) -> bool:
        """Whether nobody else may make this alias."""
        return self._is_reserved(self.registration.aliases, alias)

    def watches_room(self, room_id: str) -> bool:
        """Whether it is interested in the room, by the room's id."""
        return any_matches(self.registration.rooms, room_id)

    def _is_reserved(self, namespaces: Sequence[Namespace], name: str) -> bool:
        return name.endswith(self._suffix) and any_matches(namespaces, name, exclusive=True)

    def _remember(self, name: str, answer: bool) -> None:
        if len(self._known) >= _REMEMBERED_MOST:
            del self._known[next(iter(self._known))]
        self._known[name] = answer


class Registry:
    """Every application service of this server."""

    def __init__(self, server_name: str, registrations: Sequence[AppserviceRegistration]) -> None:
        self.all = tuple([Appservice(one, server_name) for one in registrations])
        self._by_token = {hash_token(one.registration.as_token): one for one in self.all}
        self._by_id = {one.id: one for one in self.all}

    def by_token(self, token: str | None) -> Appservice | None:
        """Whose ``as_token`` this is."""
        return None if token is None else self.by_hash(hash_token(token))

    def by_hash(self, token_hash: bytes) -> Appservice | None:
        """The same, of a token that was hashed already."""
        return self._by_token.get(token_hash)

    def by_id(self, service_id: str | None) -> Appservice | None:
        """The one that a requester carries."""
        return None if service_id is None else self._by_id.get(service_id)

    def is_user_reserved(self, user_id: str, but: str | None = None) -> bool:
        """Whether a user belongs to an application service alone, and to another one than ``but``."""
        return any(one.reserves_user(user_id) for one in self.all if one.id != but)

    def is_alias_reserved(self, alias: str, but: str | None = None) -> bool:
        """Whether an alias belongs to an application service alone, and to another one than ``but``."""
        return any(one.reserves_alias(alias) for one in self.all if one.id != but)


def check_alias(registry: Registry, alias: str, service_id: str | None) -> None:
    """Refuse an alias to whom it does not belong; ``service_id``: the application service that asks, if one does.

    An application service makes aliases within its namespaces only; everybody else none that are reserved.
    """
    # spec: application-service-api#server-admin-style-permissions
    service = registry.by_id(service_id)
    if service is not None and not service.owns_alias(alias):
        raise _exclusive(f"{alias} is not in the application service's namespaces")
    if registry.is_alias_reserved(alias, service_id):
        raise _exclusive(f"{alias} belongs to an application service")


def _exclusive(error: str) -> MatrixError:
    return MatrixError(400, "M_EXCLUSIVE", error)
