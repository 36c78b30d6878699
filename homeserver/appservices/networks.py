"""Networks of others that application services lead to: what there is, who and what can be found there.

Whatever an application service answers is looked through before a client sees it: members of the wrong shape go.

# spec: application-service-api#third-party-networks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.internet.defer import Deferred, DeferredList

from homeserver.appservices.courier import Courier
from homeserver.appservices.registry import Appservice, Registry
from homeserver.http.errors import not_found
from homeserver.http.transport import Unreachable
from homeserver.runtime.clock import Clock
from homeserver.store.directory import network_name

# What a protocol is like does not change by the minute; clients ask for it with each look at the directory.
KEPT_S = 60.0
# And that one of them did not answer, so that a directory does not wait for it with every look.
MISSED_KEPT_S = 30.0
# LIMIT(what one application service may say of a protocol, and find for a question)
INSTANCES_MOST = 1_000
FOUND_MOST = 1_000
FIELDS_MOST = 50

_OLD = "/_matrix/app/unstable"
_LISTS = ("user_fields", "location_fields")
_decode = msgspec.json.Decoder().decode


class Networks:
    """See the module."""

    def __init__(self, registry: Registry, courier: Courier, clock: Clock) -> None:
        self._registry = registry
        self._courier = courier
        self._clock = clock
        self._kept: dict[str, tuple[float, dict[str, Any] | None]] = {}

    # --- protocols ---------------------------------------------------------------------------------------

    async def protocols(self) -> dict[str, Any]:
        """Every protocol of which an application service tells something."""
        names = sorted({name for one in self._registry.all for name in one.registration.protocols})
        asked = [Deferred.fromCoroutine(self._protocol(name)) for name in names]
        found: list[Any] = await DeferredList(asked, fireOnOneErrback=True, consumeErrors=True)
        return {name: what for name, (_, what) in zip(names, found, strict=True) if what is not None}

    async def protocol(self, name: str) -> dict[str, Any]:
        """One protocol; 404 where nobody knows it."""
        found = await self._protocol(name) if self._of(name) else None
        if found is None:
            raise not_found("Unknown protocol")
        return found

    async def _protocol(self, name: str) -> dict[str, Any] | None:
        kept = self._kept.get(name)
        if kept is not None and self._clock.monotonic() < kept[0]:
            return kept[1]
        path = f"/thirdparty/protocol/{quote(name, safe='')}"
        merged: dict[str, Any] | None = None
        services = self._of(name)
        answers = await self._ask(services, path, {})
        for service, answer in answers:
            one = _protocol(service.id, answer)
            if one is None:
                continue
            if merged is None:
                merged = one
            else:
                merged["instances"] += one["instances"]
        # The names are those of registrations: so many of them, and no more.
        kept_s = KEPT_S if len(answers) == len(services) else MISSED_KEPT_S
        # From now on: a silent one has taken its time.
        self._kept[name] = (self._clock.monotonic() + kept_s, merged)
        return merged

    def _of(self, protocol: str) -> list[Appservice]:
        return [one for one in self._registry.all if protocol in one.registration.protocols]

    # --- who and what is there ---------------------------------------------------------------------------

    async def find(self, kind: str, protocol: str, fields: Mapping[str, Sequence[str]]) -> list[Any]:
        """Locations or users (``kind``) of a network by its own names for them; 404 where there is none."""
        services = self._of(protocol)
        if not services:
            raise not_found("Unknown protocol")
        path = f"/thirdparty/{kind}/{quote(protocol, safe='')}"
        return _found(kind, await self._ask(services, path, dict(list(fields.items())[:FIELDS_MOST])))

    async def find_by_id(self, kind: str, name: str) -> list[Any]:
        """What a Matrix alias or user is in networks; 404 where it is nothing."""
        argument = "alias" if kind == "location" else "userid"
        services = [one for one in self._registry.all if one.registration.protocols]
        return _found(kind, await self._ask(services, f"/thirdparty/{kind}", {argument: [name]}))

    async def _ask(
        self, services: Sequence[Appservice], path: str, query: Mapping[str, Sequence[str]]
    ) -> list[tuple[Appservice, Any]]:
        """What each of them answers; who does not, or not with JSON, is left out."""
        asked = [Deferred.fromCoroutine(self._ask_one(one, path, query)) for one in services]
        results: list[Any] = await DeferredList(asked, consumeErrors=True)
        return [
            (service, answer)
            for service, (success, answer) in zip(services, results, strict=True)
            if success and answer is not None
        ]

    async def _ask_one(self, service: Appservice, path: str, query: Mapping[str, Sequence[str]]) -> Any:
        if service.registration.url is None:
            return None
        try:
            response = await self._courier.get(service, path, query, old=_OLD)
        except Unreachable:
            return None
        if response.status != 200:
            return None
        try:
            return _decode(response.body)
        except (msgspec.DecodeError, RecursionError):
            return None


def _protocol(service_id: str, answer: Any) -> dict[str, Any] | None:
    """A protocol as clients are promised it; None for what has not its shape."""
    if not isinstance(answer, dict) or not isinstance(answer.get("instances"), list):
        return None
    found: dict[str, Any] = {}
    for name in _LISTS:
        value = answer.get(name, [])
        found[name] = [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    icon, types = answer.get("icon"), answer.get("field_types")
    found["icon"] = icon if isinstance(icon, str) else ""
    found["field_types"] = types if isinstance(types, dict) else {}
    found["instances"] = [
        {**one, "instance_id": network_name(service_id, one["network_id"])}
        for one in answer["instances"][:INSTANCES_MOST]
        if _is_instance(one)
    ]
    return found


def _is_instance(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("network_id"), str)
        and isinstance(one.get("desc"), str)
        and isinstance(one.get("fields"), dict)
        and isinstance(one.get("icon", ""), str)
    )


def _found(kind: str, answers: Sequence[tuple[Appservice, Any]]) -> list[Any]:
    name = "alias" if kind == "location" else "userid"
    found = [
        one
        for _, answer in answers
        for one in (answer[:FOUND_MOST] if isinstance(answer, list) else ())
        if isinstance(one, dict)
        and isinstance(one.get(name), str)
        and isinstance(one.get("protocol"), str)
        and isinstance(one.get("fields"), dict)
    ]
    if not found:
        raise not_found("Nothing was found")
    return found
