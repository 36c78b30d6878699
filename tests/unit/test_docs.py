"""Generated pages are those that `make docs` would write now, and the coverage page counts rightly."""

from __future__ import annotations

from twisted.trial import unittest

from scripts import docs, spec_coverage
from scripts.spec_coverage import Endpoint

MODULE = '''
"""A module.

spec: appendices#signing-details, server-server-api#retrieving-server-keys
"""
ROUTES = [
    Route(method="GET", template="/_matrix/x/{room_id:room_id}", handler=get, spec="client-server-api#x"),
    Route(method=METHOD, template="/dynamic", handler=get, spec="y"),
]
# spec: rooms/v12#definitions
# spec-partial: GET /_matrix/x/{roomId}: no paging yet
# spec-asked: POST /_matrix/y: others serve it
# spec-declined: GET /_matrix/z/{id}: nothing to choose from
'''


class GeneratedPages(unittest.TestCase):
    """The committed pages."""

    def test_up_to_date(self) -> None:
        lines = [line for name in docs.PAGES for line in docs.difference(name).splitlines()]
        if lines:
            self.fail("run `make docs` and commit the result:\n" + "\n".join(lines[:20]))


class Coverage(unittest.TestCase):
    """docs/spec-coverage.md."""

    def test_the_list_of_endpoints_is_whole(self) -> None:
        endpoints = spec_coverage.endpoints()
        self.assertEqual(sum(endpoint.api == "client-server" for endpoint in endpoints), 166)
        self.assertEqual(sum(endpoint.api == "server-server" for endpoint in endpoints), 36)
        names = {(endpoint.method, endpoint.path) for endpoint in endpoints}
        self.assertEqual(len(names), len(endpoints))
        keys = {endpoint.key for endpoint in endpoints}
        twins = {endpoint.operation for endpoint in endpoints if endpoint.path.endswith(" ")}
        self.assertEqual((twins, len(keys)), ({"peekEvents", "inviteUser"}, len(endpoints) - 2))

    def test_what_a_module_names(self) -> None:
        self.assertEqual(
            spec_coverage.anchors_in(MODULE),
            {
                "appendices#signing-details",
                "client-server-api#x",
                "rooms/v12#definitions",
                "server-server-api#retrieving-server-keys",
            },
        )
        self.assertEqual([route.key for route in spec_coverage.routes_in(MODULE)], [("GET", "/_matrix/x/{}")])
        self.assertEqual(spec_coverage.partials_in(MODULE), {("GET", "/_matrix/x/{}"): "no paging yet"})
        self.assertEqual(spec_coverage.asked_in(MODULE), {("POST", "/_matrix/y"): "others serve it"})
        self.assertEqual(
            spec_coverage.declined_in(MODULE), {("GET", "/_matrix/z/{}"): "nothing to choose from"}
        )

    def test_status(self) -> None:
        served = {route.key for route in spec_coverage.routes_in(MODULE)}
        partial = spec_coverage.partials_in(MODULE)
        endpoint = Endpoint("client-server", "GET", "/_matrix/x/{roomId}", "getX", False)
        other = Endpoint("client-server", "PUT", "/_matrix/x/{roomId}", "putX", False)
        choice = Endpoint("client-server", "GET", "/_matrix/z/{zId}", "getZ", False)
        refused = spec_coverage.declined_in(MODULE)
        self.assertEqual(spec_coverage.status_of(endpoint, served, partial, refused), "partial")
        self.assertEqual(spec_coverage.status_of(endpoint, served, {}, {}), "implemented")
        self.assertEqual(spec_coverage.status_of(other, served, partial, refused), "missing")
        self.assertEqual(spec_coverage.status_of(choice, served, partial, refused), "declined")
        self.assertEqual(spec_coverage.status_of(choice, served, partial, {}), "missing")
